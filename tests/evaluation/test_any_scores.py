"""`fj.evaluate`: any scores, compared as they are given."""

import numpy as np
import pytest
from toy import small_federation

import fedem_jax as fj
from fedem_jax.data.sources import load


def in_order(federation, dtype, step=1):
    """Scores of all items, all different, in an order that differs from client to client."""
    shape = (federation.num_clients, federation.num_items)
    order = np.random.default_rng(3).permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)
    return (order * step).astype(dtype)


@pytest.mark.parametrize("protocol", ["leak-free", "paper"])
def test_scores_are_compared_in_their_own_precision(protocol):
    federation = small_federation(protocol)
    plain = fj.evaluate(federation, in_order(federation, np.int32), k=3)
    close = 1 + in_order(federation, np.float64, 1e-12)  # all 1 in float32
    assert fj.evaluate(federation, close, k=3) == plain
    large = 2**60 + in_order(federation, np.int64)  # all alike in float64
    assert fj.evaluate(federation, large, k=3) == plain
    assert fj.evaluate(federation, in_order(federation, np.float16), k=3) == plain


def test_large_scores_do_not_tie_as_probabilities_do():
    federation = small_federation("paper")
    logits = 100 + in_order(federation, np.float32)
    small = fj.evaluate(federation, logits / 1000, k=3)
    assert fj.evaluate(federation, logits, k=3) == small


def test_ranks_in_full_leave_out_what_a_client_knows():
    federation = small_federation()
    scores = np.zeros((federation.num_clients, federation.num_items))
    for client in range(federation.num_clients):
        scores[client, federation.train_items(client)] = 2
        scores[client, federation.val_item[client]] = 1
    found = fj.evaluate(federation, scores, k=1)
    assert found["val_full"]["hr@1"] == 1
    behind = federation.num_items - np.diff(federation.offsets) - 1  # all that is left ties
    assert found["test_full"]["mrr"] == pytest.approx(np.mean(1 / behind))


def test_items_out_of_the_running_may_have_minus_infinity():
    federation = small_federation()
    scores = in_order(federation, np.float64)
    sunk = scores.copy()
    for client in range(federation.num_clients):
        sunk[client, federation.train_items(client)] = -np.inf
    assert fj.evaluate(federation, sunk, k=3) == fj.evaluate(federation, scores, k=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_plus_infinity_are_refused_with_the_client(value):
    federation = small_federation()
    scores = in_order(federation, np.float64)
    scores[4, 1] = value
    with pytest.raises(fj.UserError, match=r"those of client 4 hold NaN or \+inf"):
        fj.evaluate(federation, scores, k=3)


@pytest.mark.parametrize(
    ("k", "sentence"),
    [(0, "k: 0 is out of range"), (2.5, "k: 2.5 is no integer"), ("5", "k: '5' is no integer")],
)
def test_a_cutoff_that_is_none_is_refused(k, sentence):
    federation = small_federation()
    with pytest.raises(fj.UserError, match=sentence):
        fj.evaluate(federation, in_order(federation, np.float64), k)


def test_a_cutoff_beyond_the_candidates_is_refused():
    federation = small_federation()
    longest = federation.test_candidates.shape[1]
    scores = in_order(federation, np.float64)
    fj.evaluate(federation, scores, np.int64(longest))
    with pytest.raises(fj.UserError, match=rf"k: among {longest} candidates .* give a smaller k"):
        fj.evaluate(federation, scores, longest + 1)


@pytest.mark.parametrize(("value", "word"), [("a", "no numbers"), (1j, "complex")])
def test_what_has_no_order_is_refused(value, word):
    federation = small_federation()
    shape = (federation.num_clients, federation.num_items)
    with pytest.raises(fj.UserError, match=word):
        fj.evaluate(federation, np.full(shape, value), 3)


@pytest.mark.data
def test_popularity_on_movielens_under_the_rules_of_the_papers(data_dir):
    federation = load("ml-100k", "paper", data_dir=data_dir)
    counts = np.bincount(federation.items, minlength=federation.num_items)[None]
    found = fj.evaluate(federation, counts)["test"]["hr@10"]
    assert round(found, 3) == 0.408
    assert fj.evaluate(federation, 1e4 * counts)["test"]["hr@10"] == found
    assert fj.evaluate(federation, 1 + 1e-9 * counts)["test"]["hr@10"] == pytest.approx(found)

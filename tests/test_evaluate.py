"""Ranks and metrics: ties, both scales, numbers that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import small_federation, toy

from fedem_jax.config import Config
from fedem_jax.errors import UserError
from fedem_jax.evaluate import rank, rank_all
from fedem_jax.methods import METHODS
from fedem_jax.metrics import hit_rate, ndcg, summarise
from fedem_jax.train import Trial

TIES = ["pessimistic", "average"]


# --- rank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ties", "expected"), [("pessimistic", [4, 1, 5]), ("average", [3, 1, 3])])
def test_ties_count_in_full_or_by_half(ties, expected):
    held_out = jnp.float32([2, 9, 0])
    candidates = jnp.float32([[3, 2, 2, 1], [1, 2, 3, 8], [0, 0, 0, 0]])
    np.testing.assert_array_equal(rank(held_out, candidates, ties), expected)


@pytest.mark.parametrize("ties", TIES)
def test_ranks_are_those_of_the_twin(ties):
    scores = np.random.default_rng(0).integers(0, 6, (200, 9)).astype(np.float32)
    ours = rank(jnp.asarray(scores[:, 0]), jnp.asarray(scores[:, 1:]), ties)
    np.testing.assert_array_equal(ours, twin.rank(scores[:, 0], scores[:, 1:], ties))


def test_metrics_of_recorded_scores_with_ties(golden_trace):
    cases = zip(*(golden_trace[f"metric_{name}"] for name in ("pos", "neg", "hr", "ndcg")),
                strict=True)  # fmt: skip
    sound = [case for case in cases if np.isfinite(case[0]).all() and np.isfinite(case[1]).all()]
    assert len(sound) == 13
    for held_out, candidates, hr, ndcg_ in sound:
        ranks = np.asarray(rank(jnp.asarray(held_out), jnp.asarray(candidates), "pessimistic"))
        assert summarise(ranks, 10) == pytest.approx({"hr@10": hr, "ndcg@10": ndcg_}, abs=1e-9)


# --- ranks of a federation ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    """Few values, so that they tie; some are so large that their probabilities tie as well."""
    return np.random.default_rng(1).choice([-1, 0, 0.5, 2, 17, 20, 30], (7, 60))


def ranks_of(scores, protocol="leak-free", block=0, devices=1, **switches):
    federation = small_federation(protocol, **switches)
    METHODS["toy"] = toy(scores)
    try:
        config = Config(method="toy", block_size=block)
        trial = Trial(config, federation, jax.devices()[:devices])
    finally:
        del METHODS["toy"]

    @jax.jit
    def ranks(state, held_out):
        rules = federation.protocol
        return rank_all(trial.algorithm, trial.layout, state, held_out, (),
                        ties=rules.ties, scale=rules.scale)  # fmt: skip

    return federation, jax.tree.map(
        lambda x: np.asarray(x)[:7], ranks(trial.init(), trial.held_out)
    )


@pytest.mark.parametrize(
    ("protocol", "switches"),
    [("leak-free", {}), ("paper", {}), ("paper-p", {}), ("leak-free", {"ties": "average"})],
)
def test_ranks_of_all_clients_are_those_of_the_twin(scores, protocol, switches):
    federation, ranks = ranks_of(scores, protocol, block=3, devices=2, **switches)
    assert ranks.finite.all()
    values, ties = np.float32(scores), federation.protocol.ties
    if federation.protocol.scale == "probability":
        values = twin.sigmoid(values)
    for part in ("val", "test"):
        held_out, candidates = (getattr(federation, f"{part}_{kind}")
                                for kind in ("item", "candidates"))  # fmt: skip
        expected = [
            twin.rank(row[item], row[others], ties)
            for row, item, others in zip(values, held_out, candidates, strict=True)
        ]
        np.testing.assert_array_equal(getattr(ranks, part), expected)


def test_probabilities_tie_where_logits_do_not(scores):
    logits, probabilities = (ranks_of(scores, "paper", scale=scale)[1]
                             for scale in ("logit", "probability"))  # fmt: skip
    assert (logits.val <= probabilities.val).all()
    assert (logits.val < probabilities.val).any()


@pytest.mark.parametrize("block", [1, 8])
def test_ranks_do_not_depend_on_the_cut(scores, block):
    for ours, theirs in zip(ranks_of(scores, block=block)[1],
                            ranks_of(scores, block=3, devices=2)[1], strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_flagged(scores, value):
    federation = small_federation()
    scores = scores.copy()
    scores[1, federation.val_item[1]] = value
    scores[4, federation.test_candidates[4, 5]] = value
    never_asked = np.setdiff1d(
        np.arange(federation.num_items),
        [federation.val_item[5], federation.test_item[5],
         *federation.val_candidates[5], *federation.test_candidates[5]],
    )  # fmt: skip
    scores[5, never_asked] = value
    _, ranks = ranks_of(scores)
    np.testing.assert_array_equal(ranks.finite, [True, False, True, True, False, True, True])


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_by_hand():
    ranks = np.array([1.0, 2, 3.5, 10, 10.5, 11, 100])
    np.testing.assert_array_equal(hit_rate(ranks, 10), [1, 1, 1, 1, 0, 0, 0])
    gains = [1, 1 / np.log2(3), 1 / np.log2(4.5), 1 / np.log2(11), 0, 0, 0]
    np.testing.assert_allclose(ndcg(ranks, 10), gains, rtol=1e-12)
    expected = {"hr@10": 4 / 7, "ndcg@10": np.mean(gains)}
    assert summarise(ranks, 10) == pytest.approx(expected, rel=1e-12)
    assert summarise(ranks, 1) == {"hr@1": 1 / 7, "ndcg@1": 1 / 7}


def test_a_metric_over_no_user_is_an_error():
    with pytest.raises(UserError, match="no user"):
        summarise(np.zeros(0), 10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(1, 30))
def test_metrics_are_those_of_the_twin(ranks, k):
    ranks = np.array(ranks, float)
    np.testing.assert_array_equal(hit_rate(ranks, k), twin.hit_rate(ranks, k))
    np.testing.assert_allclose(ndcg(ranks, k), twin.ndcg(ranks, k), rtol=1e-12)
    assert (ndcg(ranks, k) <= hit_rate(ranks, k)).all()


def test_metrics_are_those_of_ir_measures():
    ir_measures = pytest.importorskip("ir_measures")
    ranks = [1, 3, 10, 11, 40]
    qrels = [ir_measures.Qrel(str(user), "held out", 1) for user in range(5)]
    run = [
        ir_measures.ScoredDoc(str(user), "held out" if place == rank else f"d{place}", -place)
        for user, rank in enumerate(ranks) for place in range(1, 51)
    ]  # fmt: skip
    judged = ir_measures.calc_aggregate(
        [ir_measures.nDCG @ 10, ir_measures.Success @ 10], qrels, run
    )
    ours = summarise(np.array(ranks, float), 10)
    assert judged[ir_measures.nDCG @ 10] == pytest.approx(ours["ndcg@10"], abs=1e-9)
    assert judged[ir_measures.Success @ 10] == pytest.approx(ours["hr@10"], abs=1e-9)

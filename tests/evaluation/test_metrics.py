"""Metrics: by hand, by their properties, and by an independent library."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedem_jax.errors import UserError
from fedem_jax.evaluation.exposure import coverage
from fedem_jax.evaluation.metrics import (
    CUTOFFS,
    HeldOutRanks,
    chance_level,
    hit_rate,
    ndcg,
    per_user,
    reciprocal_rank,
    summarise,
)
from fedem_jax.evaluation.ranking import rank

TIES = st.sampled_from(["pessimistic", "average"])
RANKS = st.lists(st.integers(2, 400).map(lambda twice: twice / 2), min_size=1, max_size=20)
FEW_VALUES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 12)),
    elements=st.integers(-6, 6).map(float),
)
"""Scores of a few users and items, the first item held out; small integers, so that they tie."""


def ranks(scores, ties: str) -> np.ndarray:
    scores = jnp.asarray(scores, jnp.float32)
    return np.asarray(rank(scores[:, 0], scores[:, 1:], ties), np.float64)


# --- by hand --------------------------------------------------------------------------------------


def test_metrics_by_hand():
    places = np.array([1.0, 3.0, 2.5, 6.0])
    np.testing.assert_array_equal(hit_rate(places, 3), [1, 1, 1, 0])
    np.testing.assert_allclose(ndcg(places, 3), [1, 0.5, 1 / np.log2(3.5), 0], rtol=1e-12)
    np.testing.assert_allclose(reciprocal_rank(places), [1, 1 / 3, 0.4, 1 / 6], rtol=1e-12)


def test_summaries_hold_every_cutoff_and_the_own_one():
    summary = summarise(HeldOutRanks.of_one(np.array([1.0, 7.0, 30.0])), 3)
    names = {f"{metric}@{k}" for metric in ("hr", "ndcg") for k in (3, *CUTOFFS)}
    assert set(summary) == names | {"mrr"}
    assert summary["hr@3"] == summary["hr@5"] == 1 / 3
    assert summary["hr@10"] == summary["hr@20"] == 2 / 3
    assert summary["ndcg@10"] == pytest.approx((1 + 1 / 3) / 3)
    assert summary["mrr"] == pytest.approx((1 + 1 / 7 + 1 / 30) / 3)


def test_a_metric_over_no_user_is_an_error():
    with pytest.raises(UserError, match="no user"):
        summarise(HeldOutRanks.of_one(np.zeros(0)), 10)


def test_coverage_counts_items_once():
    assert coverage(np.array([[0, 1], [1, 5], [0, 5]]), 10) == 0.3


@pytest.mark.parametrize(
    ("ranked", "k", "metric", "expected"),
    [
        ([100], 10, "hr@10", 0.1),
        ([2], 1, "hr@1", 0.5),
        ([5], 10, "hr@10", 1.0),  # the list holds every item
        ([100], 1, "ndcg@1", 0.01),
        ([10], 2, "ndcg@2", (1 + 0.6309297535714575) / 10),
        ([2], 1, "mrr", 0.75),
        ([10, 40], 10, "hr@10", (1 + 0.25) / 2),
    ],
)
def test_chance_level_by_hand(ranked, k, metric, expected):
    assert chance_level(np.array(ranked), k)[metric] == pytest.approx(expected, rel=1e-12)


def test_chance_is_what_random_orders_reach():
    draw = np.random.default_rng(0)
    places = draw.integers(1, 31, 200_000).astype(float)
    expected = chance_level(np.array([30]), 5)
    for name, value in per_user(places, [5]).items():
        assert value.mean() == pytest.approx(expected[name], abs=0.004)


# --- properties -----------------------------------------------------------------------------------


@given(RANKS, st.integers(1, 50))
def test_bounds(places, k):
    places = np.array(places)
    hr, gain, reciprocal = hit_rate(places, k), ndcg(places, k), reciprocal_rank(places)
    assert set(hr) <= {0.0, 1.0}
    assert ((gain >= 0) & (gain <= hr)).all()
    assert ((reciprocal > 0) & (reciprocal <= 1)).all()


@given(RANKS, st.integers(1, 50), st.integers(0, 50))
def test_longer_lists_find_no_less(places, k, more):
    places = np.array(places)
    for metric in (hit_rate, ndcg):
        assert (metric(places, k) <= metric(places, k + more)).all()


@given(RANKS, st.integers(1, 50), st.data())
def test_a_better_rank_scores_no_less(places, k, data):
    better = [data.draw(st.floats(1, place)) for place in places]
    for name, value in per_user(np.array(better), [k]).items():
        assert (value >= per_user(np.array(places), [k])[name]).all()


STRICTLY_MONOTONE = {
    "affine": lambda x: 3 * x - 7,
    "cube": lambda x: x**3,
    "exponential": np.exp,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
}
"""Of scores from -6 to 6; none makes two of the integers equal in float32."""


@settings(max_examples=60, deadline=None)
@given(FEW_VALUES, TIES, st.sampled_from(sorted(STRICTLY_MONOTONE)))
def test_a_monotone_transformation_changes_nothing(scores, ties, name):
    transformed = STRICTLY_MONOTONE[name](scores)
    np.testing.assert_array_equal(ranks(scores, ties), ranks(transformed, ties))


@settings(max_examples=60, deadline=None)
@given(FEW_VALUES, TIES, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(scores, ties, random):
    order = list(range(1, scores.shape[1]))
    random.shuffle(order)
    np.testing.assert_array_equal(ranks(scores, ties), ranks(scores[:, [0, *order]], ties))


# --- an independent library -----------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_metrics_are_those_of_ir_measures(k):
    ir = pytest.importorskip("ir_measures")
    users, items = 150, 60
    draw = np.random.default_rng(k)
    scores = np.stack([draw.permutation(items) for _ in range(users)]).astype(np.float32)
    qrels = [ir.Qrel(str(user), "0", 1) for user in range(users)]
    run = [
        ir.ScoredDoc(str(user), str(item), float(scores[user, item]))
        for user in range(users)
        for item in range(items)
    ]
    judged = {
        (measure.measure, measure.query_id): measure.value
        for measure in ir.iter_calc([ir.Success @ k, ir.nDCG @ k, ir.RR], qrels, run)
    }
    ours = per_user(ranks(scores, "pessimistic"), [k])
    theirs = {f"hr@{k}": ir.Success @ k, f"ndcg@{k}": ir.nDCG @ k, "mrr": ir.RR}
    for name, measure in theirs.items():
        expected = [judged[measure, str(user)] for user in range(users)]
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-6)

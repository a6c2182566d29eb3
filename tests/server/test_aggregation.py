"""The server's step and the similarities that it rests on."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import twin

from fedem_jax.server.aggregation import (
    aggregate,
    aggregation_weights,
    project_to_simplex,
    sample_shares,
)
from fedem_jax.server.similarity import SIMILARITIES, principal_axes, principal_scores, saturate

COUNTS = np.array([60, 15, 240, 5], np.int32)


@pytest.fixture(scope="module")
def tables():
    """Tables of four clients with a clear first axis; the first two are nearly the same."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(4, 30, 5)) * [3, 1, 1, 0.5, 0.5] + rng.normal(size=5)
    tables[1] = tables[0] + 1e-3 * rng.normal(size=(30, 5))
    return tables


def scores_of(tables):
    tables = jnp.float32(tables)
    return np.asarray(principal_scores(tables, principal_axes(tables)))


# --- projection -----------------------------------------------------------------------------------


def by_supports(point):
    """The nearest point of the simplex, found by trying each set of entries that may be kept."""
    best = None
    for kept in itertools.product([False, True], repeat=len(point)):
        kept = np.array(kept)
        if kept.any():
            w = np.where(kept, point - (point[kept].sum() - 1) / kept.sum(), 0)
            if w.min() >= 0 and (best is None or ((w - point) ** 2).sum() < best[0]):
                best = ((w - point) ** 2).sum(), w
    return best[1]


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0])
def test_projection_is_the_nearest_point_of_the_simplex(scale):
    points = np.random.default_rng(1).normal(0.2, scale, (50, 6)).round(2)  # with equal entries
    expected = [by_supports(point) for point in points]
    ours = np.asarray(project_to_simplex(jnp.float32(points)))
    np.testing.assert_allclose(ours, expected, atol=2e-6 * max(1, scale))
    assert (ours >= 0).all()


def test_projection_leaves_points_of_the_simplex_alone():
    points = jnp.float32([[0.25, 0.75, 0], [1, 0, 0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(project_to_simplex(points), points, atol=1e-7)
    np.testing.assert_array_equal(project_to_simplex(jnp.float32([[-7]])), [[1]])


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("kind", ["avg", "sim", "both"])
def test_weights_and_tables_are_those_of_the_twin(tables, kind, similarity):
    alike = None
    if kind != "avg":
        alike = saturate(SIMILARITIES[similarity](jnp.asarray(scores_of(tables))))
    weights = np.asarray(aggregation_weights(kind, sample_shares(jnp.asarray(COUNTS)), alike, 0.9))
    scores = aligned([twin.principal_scores(table) for table in tables], tables)
    alike = twin.similarity(scores, similarity)
    expected = twin.aggregation_weights(COUNTS, alike, kind, 0.9)
    np.testing.assert_allclose(weights, expected if kind != "avg" else expected[:1], atol=2e-6)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    made = aggregate(jnp.asarray(weights), jnp.float32(tables))
    np.testing.assert_allclose(made, twin.aggregate(weights.astype(float), tables), atol=1e-5)


def aligned(scores, tables):
    """The twin's scores with the signs of ours, which the eigenproblem leaves open."""
    return np.array([x * np.sign(x @ y) for x, y in zip(scores, scores_of(tables), strict=True)])


def test_without_weight_on_the_similarity_both_is_avg():
    shares = sample_shares(jnp.asarray(COUNTS))
    np.testing.assert_allclose(shares, COUNTS / COUNTS.sum(), rtol=1e-6)
    both = aggregation_weights("both", shares, jnp.eye(4), 0.0)
    np.testing.assert_allclose(both, np.tile(shares, (4, 1)), atol=1e-7)
    np.testing.assert_array_equal(aggregation_weights("avg", shares, None, 0.9), shares[None])


def test_a_large_weight_on_a_similarity_to_nobody_else_keeps_the_own_table(tables):
    weights = aggregation_weights("both", sample_shares(jnp.asarray(COUNTS)), jnp.eye(4), 9.0)
    np.testing.assert_array_equal(weights, np.eye(4))
    own = aggregate(weights, jnp.float32(tables))
    np.testing.assert_allclose(own, tables, rtol=1e-6)


def test_entries_too_small_to_matter_are_dropped():
    similarity = jnp.float32([[1, 1e-21], [0.5, 1.5]])
    weights = aggregation_weights("sim", jnp.float32([0.5, 0.5]), similarity, 0.9)
    np.testing.assert_array_equal(weights, np.float32([[1, 0], [0.25, 0.75]]))


# --- similarity -----------------------------------------------------------------------------------


def test_principal_scores_are_those_of_the_twin_up_to_sign(tables):
    expected = aligned([twin.principal_scores(table) for table in tables], tables)
    np.testing.assert_allclose(scores_of(tables), expected, atol=2e-5)


def test_principal_axes_are_unit_vectors_along_the_largest_spread():
    rng = np.random.default_rng(2)
    axis = rng.normal(size=4) / 2
    tables = 5 * rng.normal(size=(1, 40, 1)) * axis + 1e-3 * rng.normal(size=(1, 40, 4)) + 7
    (found,) = principal_axes(jnp.float32(tables))
    assert abs(found @ axis) / np.linalg.norm(axis) == pytest.approx(1, abs=1e-5)
    assert jnp.linalg.norm(found) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_similarities_are_those_of_the_twin(tables, kind):
    scores = scores_of(tables)
    similarity = np.asarray(saturate(SIMILARITIES[kind](jnp.asarray(scores))))
    expected = twin.similarity(scores.astype(float), kind)
    assert expected[0, 1] == 1 > expected[0, 2]  # the first two are alike, by the rule of 0.9
    np.testing.assert_allclose(similarity, expected, atol=2e-6)
    np.testing.assert_array_equal(similarity, similarity.T)
    np.testing.assert_array_equal(np.diag(similarity), 1)


def test_similarities_above_nine_tenths_count_as_one():
    values = jnp.float32([[1, 0.91, 0.9], [0.95, 1, 0.5], [0.89, 0, 1]])
    expected = np.float32([[1, 1, 0.9], [1, 1, 0.5], [0.89, 0, 1]])
    np.testing.assert_array_equal(saturate(values), expected)


def test_every_client_is_alike_itself_however_large_its_signature():
    """The distance of a signature of 2000 items to itself must not be lost in rounding."""
    scores = jnp.float32(3 * np.random.default_rng(3).normal(size=(40, 2000)))
    for similarity in SIMILARITIES.values():
        np.testing.assert_array_equal(np.diag(saturate(similarity(scores))), 1)


def test_cosine_similarity_is_never_negative_and_zero_with_an_empty_signature():
    scores = jnp.float32([[1, 0], [-2, 0], [3, 4], [0, 0]])
    expected = [[1, 0, 0.6, 0], [0, 1, 0, 0], [0.6, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(SIMILARITIES["cos"](scores), expected, atol=1e-7)

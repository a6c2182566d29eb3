"""The synthetic federation: planted as promised, and learnable by those who collaborate."""

import numpy as np
import pytest

from fedem_jax.data.sources import load
from fedem_jax.data.synthetic import embedded, synthetic
from fedem_jax.errors import UserError


def hit_rate(federation, scores: np.ndarray) -> float:
    """HR@10 of scores [N, I] against the sampled candidates; ties count against."""
    clients = np.arange(federation.num_clients)
    held_out = scores[clients, federation.test_item][:, None]
    others = scores[clients[:, None], federation.test_candidates]
    return float(((others >= held_out).sum(1) < 10).mean())


def train_matrix(federation) -> np.ndarray:
    seen = np.zeros((federation.num_clients, federation.num_items))
    for client in range(federation.num_clients):
        seen[client, federation.train_items(client)] = 1
    return seen


def item_neighbours(seen: np.ndarray) -> np.ndarray:
    """Scores [N, I]: cosine similarity of an item to those of the client, added up."""
    unit = seen / np.maximum(np.linalg.norm(seen, axis=0), 1e-9)
    similarity = unit.T @ unit
    np.fill_diagonal(similarity, 0)
    return seen @ similarity


@pytest.fixture(scope="module")
def federation():
    return load("synthetic")


def test_sizes_vary_sixfold_and_leave_room_for_candidates(federation):
    sizes = np.diff(federation.offsets) + 2
    assert (federation.num_clients, sizes.min(), sizes.max()) == (600, 10, 60)
    assert np.median(sizes) < 20
    assert federation.num_items - sizes.max() >= 198


def test_a_group_knows_an_item_from_two_draws_or_less(federation):
    draws = federation.num_interactions / (12 * federation.num_items)
    assert 1.5 < draws < 2
    assert np.bincount(federation.cohort).tolist() == [50] * 12


def test_collaboration_pays(federation):
    seen = train_matrix(federation)
    popular = hit_rate(federation, np.broadcast_to(seen.sum(0), seen.shape))
    neighbours = hit_rate(federation, item_neighbours(seen))
    random = hit_rate(federation, np.random.default_rng(0).random(seen.shape))
    assert random < 0.2
    assert popular > 0.3
    assert neighbours > popular + 0.15


def test_truth_predicts_what_was_held_out(federation):
    _, truth = embedded()
    weight = truth.log_weight(federation.user_ids)[:, federation.item_ids]
    assert hit_rate(federation, weight) > 0.9


def test_clients_of_a_group_resemble_each_other():
    _, truth = synthetic()
    unit = truth.taste / np.linalg.norm(truth.taste, axis=1, keepdims=True)
    same = truth.group[:, None] == truth.group
    assert (unit @ unit.T)[same].mean() > (unit @ unit.T)[~same].mean() + 0.5
    assert np.bincount(truth.group).tolist() == [50, 50, 50, 50]


def test_popularity_has_a_long_tail():
    interactions, truth = synthetic(2000, 500, sizes=(10, 20), strength=0.0, individual=0.0)
    counts = np.bincount(interactions.frame["item"], minlength=500)
    top = np.argsort(-truth.popularity)
    assert counts[top[:50]].sum() > 2 * counts[top[-250:]].sum()


def test_pairs_are_distinct_and_seeds_differ():
    interactions, truth = synthetic(50, 300, sizes=(5, 100), seed=3)
    assert not interactions.frame.duplicated(["user", "item"]).any()
    again, _ = synthetic(50, 300, sizes=(5, 100), seed=3)
    other, _ = synthetic(50, 300, sizes=(5, 100), seed=4)
    assert interactions.frame.equals(again.frame)
    assert not interactions.frame.equals(other.frame)
    assert truth.popularity.sum() == pytest.approx(1)


def test_the_seed_of_an_experiment_leaves_the_data_alone(federation):
    other = load("synthetic", seed=1)
    assert (other.items == federation.items).all()
    assert (other.test_candidates != federation.test_candidates).any()


def test_one_group_and_many_clients():
    interactions, truth = synthetic(20_000, 300, num_groups=1, sizes=(10, 10))
    assert len(interactions) == 200_000
    assert np.isfinite(truth.taste).all()


@pytest.mark.parametrize("sizes", [(0, 5), (6, 5), (10, 300)])
def test_sizes_that_cannot_be_drawn(sizes):
    with pytest.raises(UserError, match="sizes"):
        synthetic(10, 300, sizes=sizes)


def test_heterogeneity_is_the_share_of_the_variance_that_a_group_has_of_its_own():
    _, truth = synthetic(20, 5000, 3, (5, 10), dim=4, heterogeneity=0.3)
    assert truth.item_of_group is not None
    flat = np.concatenate([truth.item[None], truth.item_of_group]).reshape(4, -1)
    expected = np.full((4, 4), 0.7)  # covariance of two groups
    expected[0] = expected[:, 0] = np.sqrt(0.7)  # and of a group with the common vectors
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(np.cov(flat), expected, atol=0.03)


def test_the_weights_of_a_client_are_those_of_its_group():
    _, truth = synthetic(9, 30, 3, (5, 10), heterogeneity=0.5)
    assert truth.item_of_group is not None
    for client, weight in zip([4, 0, 7], truth.log_weight(np.array([4, 0, 7])), strict=True):
        own = truth.item_of_group[truth.group[client]] @ truth.taste[client]
        np.testing.assert_allclose(weight, own + np.log(truth.popularity))


def test_heterogeneity_leaves_all_other_draws_alone():
    (_, alike), (_, apart) = (synthetic(50, 300, heterogeneity=h, sizes=(5, 9)) for h in (0, 1))
    for name in ("group", "taste", "item", "popularity"):
        np.testing.assert_array_equal(getattr(alike, name), getattr(apart, name))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_heterogeneity_out_of_range(value):
    with pytest.raises(UserError, match=r"heterogeneity.*\[0, 1\]"):
        synthetic(10, 300, sizes=(5, 9), heterogeneity=value)

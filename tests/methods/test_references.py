"""Popularity, item-knn and EASE against plain NumPy in float64, client by client."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

import fedem_jax as fj
from fedem_jax.config.protocol import preset
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.errors import UserError
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.records import PARTS
from fedem_jax.methods.item_knn import of_neighbours, similarities
from fedem_jax.runs.memory import plan_memory
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run

METHODS = ("popularity", "item-knn", "ease")


def repeating():
    """40 clients with 8 to 15 of 30 items each; they come back to some of them. Six items are with
    most of them."""
    rng = np.random.default_rng(5)
    weight = np.append(np.linspace(1, 0.3, 6), np.full(24, 0.05))
    histories = [rng.choice(30, 8 + u % 8, False, weight / weight.sum()) for u in range(40)]
    histories = [np.append(own, own[:3]) for own in histories]
    user = np.repeat(np.arange(40), [len(own) for own in histories])
    rules = preset("paper", num_candidates=4, min_interactions=3)
    interactions = Interactions.of(user, np.concatenate(histories), time=np.arange(len(user)))
    return split(interactions, rules, 0, "repeating")


FEDERATIONS = {"small": small_federation(), "repeating": repeating()}


def having(federation):
    """X: whether each client has each item in its training set."""
    x = np.zeros((federation.num_clients, federation.num_items))
    for client in range(federation.num_clients):
        for item in federation.train_items(client):
            x[client, item] = 1
    return x


def popularity_loop(x, config):
    """Scores, and predictions of x for the loss."""
    count = np.array([sum(row[item] for row in x) for item in range(x.shape[1])])
    return np.tile(count, (len(x), 1)), np.tile(count / len(x), (len(x), 1))


def knn_loop(x, config):
    """Similarities are compared in float32, as ties decide who is a neighbour."""
    clients, items = x.shape
    scores, predicted = np.zeros_like(x), np.zeros_like(x)
    for i in range(items):
        alike = []
        for j in range(items):
            both, scale = np.float32(x[:, i] @ x[:, j]), x[:, i].sum() * x[:, j].sum()
            if i != j and both:
                close = both / (np.sqrt(np.float32(scale)) + np.float32(config.shrinkage))
                alike.append((-close, j))
        nearest = [(j, -float(minus)) for minus, j in sorted(alike)[: config.neighbours]]
        for u in range(clients):
            scores[u, i] = sum(x[u, j] * weight for j, weight in nearest)
        total = sum(weight for _, weight in nearest)
        predicted[:, i] = scores[:, i] / total if total else 0
    return scores, predicted


def ease_loop(x, config):
    """Column by column: the ridge regression of an item on all others."""
    items = x.shape[1]
    scores = np.zeros_like(x)
    for i in range(items):
        others = np.delete(np.arange(items), i)
        known = x[:, others]
        gram = known.T @ known + config.l2 * np.eye(items - 1)
        scores[:, i] = known @ np.linalg.solve(gram, known.T @ x[:, i])
    return scores, scores


LOOPS = {"popularity": popularity_loop, "item-knn": knn_loop, "ease": ease_loop}


@cache
def computed(method, data):
    """The simulation; on the host its state after one and after two rounds, and what the first
    round reports; the record and the scores of all clients after it."""
    settings = {"block_size": 2, "size_classes": 2, "client_fraction": 0.4, "top_k": 3}
    config = config_of(method, rounds=1, **settings)
    simulation = Simulation(config, FEDERATIONS[data], jax.devices()[:1])
    state = simulation.init()
    state, info, ranks = simulation.segment(state, 1)(state, 0)
    places = jnp.asarray(simulation.layout.place)
    with jax.default_matmul_precision("highest"):
        scores = simulation.algorithm.score(state, places, simulation.algorithm.hyper)
    first = jax.tree.map(np.array, (state, info))
    second = jax.tree.map(np.array, simulation.segment(state, 1)(state, 1)[:2])
    return simulation, first, second, simulation.record(1, info, ranks), np.array(scores)


@pytest.mark.parametrize("data", FEDERATIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow_but("ease-repeating", "item-knn-repeating", "popularity-repeating")
def test_scores_and_loss_are_those_of_a_loop(method, data):
    """Also if only a share of the clients trains: their data were pooled before."""
    simulation, (_, info), _, record, scores = computed(method, data)
    x = having(FEDERATIONS[data])
    assert (len(FEDERATIONS[data].items) > x.sum()) == (data == "repeating")
    assert data == "repeating" or not x.any(axis=0).all()
    expected, predicted = LOOPS[method](x, simulation.config)
    assert len(np.unique(expected)) > 3
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    lost = ((x - predicted) ** 2).mean(axis=1)
    np.testing.assert_allclose(simulation.by_client(info.loss[0]), lost, rtol=1e-4, atol=1e-7)
    assert record["loss"] == pytest.approx(lost.mean(), rel=1e-4)
    assert record["epochs"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_further_rounds_change_nothing(method):
    _, first, second, *_ = computed(method, "small")
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("data", FEDERATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_ranked_as_they_are(method, data):
    """Never as probabilities, which saturate: sums and counts are no log-odds."""
    simulation, *_, record, scores = computed(method, data)
    federation = FEDERATIONS[data]
    assert (federation.protocol.scale == "probability") == (data == "repeating")
    assert simulation.ranking.scale == "logit"
    expected = fj.evaluate(federation, scores, 3)
    saturated = fj.evaluate(federation, 1 / (1 + np.exp(-scores.astype(np.float32))), 3)
    assert (method, data) != ("popularity", "repeating") or expected != saturated
    for part in PARTS:
        assert record[part] == pytest.approx(expected[part], abs=1e-9)


@pytest.mark.parametrize("data", FEDERATIONS)
def test_the_line_of_popularity_is_the_method_of_that_name(data):
    federation = FEDERATIONS[data]
    *_, record, _ = computed("popularity", data)
    np.testing.assert_array_equal(federation.clients_with, having(federation).sum(axis=0))
    line = popularity(federation, 3)
    assert list(line) == ["test", "test_full"]
    for part, values in line.items():
        assert list(values) == ["hr@3", "ndcg@3", "mrr"]
        for name, value in values.items():
            assert value == pytest.approx(record[part][name], abs=1e-9)


def test_the_lower_number_wins_among_equally_similar_items():
    """Items 1, 2 and 3 are alike; nobody has item 4."""
    x = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], np.float32)
    alike = similarities(jnp.asarray(x.T @ x), jnp.float32(0))
    for count, neighbours in ((1, [1]), (2, [1, 2]), (5, [1, 2, 3])):
        weights = np.asarray(of_neighbours(alike, count))
        assert np.flatnonzero(weights[:, 0]).tolist() == neighbours
        np.testing.assert_allclose(weights[neighbours, 0], 2 / np.sqrt(6), rtol=1e-6)
        assert not weights[4].any()
        assert not weights[:, 4].any()


@pytest.mark.parametrize("method", ["item-knn", "ease"])
def test_a_matrix_that_does_not_fit_is_refused_in_one_sentence(method):
    """And no width of vectors is advised, which these methods do not have."""
    simulation = computed(method, "small")[0]
    needed = simulation.memory.total
    plan = plan_memory(simulation.config, FEDERATIONS["small"], simulation.layout, limit=needed)
    words = r"^memory: the run needs .*, but only .* can be used; [^.;]*take fewer clients or items"
    with pytest.raises(UserError, match=words):
        plan.check()


def test_a_singular_matrix_ends_with_what_helps():
    config = config_of("ease", l2=1e-12, top_k=3, rounds=1)
    with pytest.raises(UserError, match=r"singular in float32\); a larger l2 usually helps\.$"):
        run(config, FEDERATIONS["small"])

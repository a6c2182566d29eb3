"""FedCA against plain NumPy in float64, one client after the other, and in cases with a known
answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import twin
from replay import draws_of, rounds_of
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.config.settings import FedCA, FedMF
from fedem_jax.core.linalg import eigensystem
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.methods.fedca import (
    Hyper,
    composite_weights,
    principal_directions,
    sampled_share,
)
from fedem_jax.runs.simulation import Simulation
from fedem_jax.server.complementarity import complementarity

GENTLE = FedCA(
    method="fedca", dim=5, local_epochs=3, batch_size=16, num_negative=2, lr_embedding=0.03,
    threshold=0.02, bce="logit", client_fraction=0.9, aggregation_fraction=0.7, directions=3,
    interpolation=0.6, complementarity_weight=0.4, similarity_weight=0.2, size_classes=1,
)  # fmt: skip
"""Six of seven clients train and four are aggregated, by weights that none of three terms decides
alone. The stable loss, so that nothing but rounding is between the two."""


def uploaders(simulation, number):
    """The clients that are aggregated in a round."""
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    return np.asarray(draws.uploaders(draws.participants()))


# --- whole rounds, against NumPy ------------------------------------------------------------------


def canonical_sign(axis, centred):
    """The axis or its opposite: where the row of largest score is positive."""
    scores = centred @ axis
    return axis * np.sign(scores[np.abs(scores).argmax()])


def directions_of(rows, number):
    """The first principal directions [k D] of rows."""
    centred = rows - rows.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:number]
    return np.array([canonical_sign(axis, centred) for axis in axes])


def agreement(ours, theirs):
    """Complementarity of two clients' directions, matched greedily."""
    cosines, angles = ours @ theirs.T, []
    for _ in ours:
        i, j = np.unravel_index(cosines.argmax(), cosines.shape)
        angles.append(np.arccos(np.clip(cosines[i, j], -1, 1)))
        cosines = np.delete(np.delete(cosines, i, 0), j, 1)
    return np.cos(np.mean(angles))


class Loop:
    """FedCA, client by client."""

    def __init__(self, simulation):
        self.simulation, self.config = simulation, simulation.config
        clients = simulation.init().clients
        self.users = np.array(clients.private["user"], float)
        self.tables = np.array(clients.items, float)
        self.spaces, self.served = {}, {}

    def round(self, number):
        config = self.config
        self.sampled = draws_of(self.simulation, number)
        for u, (items, labels, orders) in self.sampled.items():
            result = twin.local_train(
                self.users[u], self.table_of(u), None, [], items, labels, orders,
                batch_size=config.batch_size, lr_embedding=config.lr_embedding, lr_adapter=0,
                threshold=config.threshold, bce="logit",
            )  # fmt: skip
            self.users[u], self.tables[u] = result.user, result.table
            self.spaces[u] = directions_of(result.table[items], config.directions)
        chosen = uploaders(self.simulation, number)
        counts = np.array([len(self.sampled[u].items) for u in chosen])
        tables, spaces = self.tables[chosen], [self.spaces[u] for u in chosen]
        centred = tables - tables.mean(1, keepdims=True)
        axes = np.array([directions_of(table, 1)[0] for table in tables])
        self.similarity = twin.similarity(np.einsum("aid,ad->ai", centred, axes), "l2")
        self.complementarity = np.array([[agreement(a, b) for b in spaces] for a in spaces])
        drawn = (
            config.complementarity_weight * self.complementarity
            + config.similarity_weight * self.similarity
        )
        self.weights = np.array([twin.project_simplex(counts / counts.sum() + d) for d in drawn])
        self.served = dict(zip(chosen, twin.aggregate(self.weights, tables), strict=True))

    def table_of(self, u):
        share = self.config.interpolation
        if u not in self.served:
            return self.tables[u]
        return share * self.tables[u] + (1 - share) * self.served[u]

    def scores(self):
        return np.array([self.table_of(u) @ user for u, user in enumerate(self.users)])


def test_rounds_are_those_of_the_loop():
    simulation = Simulation(GENTLE, small_federation(), jax.devices()[:1])
    loop = Loop(simulation)
    for number, (clients, server, _, _, scores) in enumerate(rounds_of(simulation, 3)):
        loop.round(number)
        pairs = [
            (clients.private["user"], loop.users),
            (clients.items, loop.tables),
            (scores, loop.scores()),
            *((server.items[clients.slot[u]], table) for u, table in loop.served.items()),
        ]
        for ours, theirs in pairs:
            near = 1e-5 * np.abs(theirs).max()
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=near, err_msg=f"round {number}")
        # of the same table: small differences turn directions that vary about equally
        for u, (items, *_) in loop.sampled.items():
            theirs = directions_of(clients.items[u][items].astype(float), GENTLE.directions)
            np.testing.assert_allclose(clients.directions[u], theirs, rtol=0, atol=5e-6)
        assert set(np.flatnonzero(clients.slot >= 0)) == set(loop.served)

        off_diagonal = ~np.eye(4, dtype=bool)  # nothing is decided by one term alone
        assert (loop.complementarity[off_diagonal] < 0.99).all()
        assert np.ptp(loop.similarity[off_diagonal]) > 1e-3
        assert (np.sort(loop.weights)[:, -2] > 0.01).all()


# --- extreme cases --------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_served_with_nothing_of_their_own_and_sample_shares_is_fedmf():
    same = {"dim": 4, "local_epochs": 2, "batch_size": 16, "bce": "logit", "size_classes": 1}
    ours = FedCA(aggregation_fraction=1.0, interpolation=0.0, similarity_weight=0.0,
                 complementarity_weight=0.0, **same)  # fmt: skip
    theirs = FedMF(weighting="samples", evaluated="global", **same)
    ours, theirs = (
        rounds_of(Simulation(config, small_federation(), jax.devices()[:1]), 3)
        for config in (ours, theirs)
    )
    near = {"rtol": 0, "atol": 1e-5}
    for (clients, server, info, _, scores), expected in zip(ours, theirs, strict=True):
        for table in server.items:
            np.testing.assert_allclose(table, expected[1].items, **near)
        users = expected[0].private["user"]
        np.testing.assert_allclose(clients.private["user"], users, **near)
        np.testing.assert_allclose(info.loss, expected[2].loss, **near)
        np.testing.assert_allclose(scores, expected[4], **near)
    assert np.abs(theirs[2][1].items - theirs[2][1].before).max() > 0.003
    assert np.abs(ours[2][0].items[0] - ours[2][0].items[1]).max() > 0.01  # clients moved apart


@pytest.fixture(scope="module")
def terms():
    """Sample shares, similarity and complementarity of six clients."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(6))
    similarity, complementary = rng.uniform(0.1, 0.8, (2, 6, 6))
    similarity[np.diag_indices(6)] = complementary[np.diag_indices(6)] = 1
    return shares, similarity, complementary


def weights_of(terms, a, b):
    shares, similarity, complementary = (jnp.float32(term) for term in terms)
    numbers = dict.fromkeys(Hyper._fields, jnp.float32(0))
    weights = {"similarity_weight": jnp.float32(b), "complementarity_weight": jnp.float32(a)}
    hyper = Hyper(**numbers | weights)
    return np.asarray(composite_weights(shares, similarity, complementary, hyper))


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (0.7, 0.1), (0.0, 2.0)])
def test_weights_are_the_projection_of_the_sum_of_three_terms(terms, a, b):
    shares, similarity, complementary = terms
    weights = weights_of(terms, a, b)
    point = shares + a * complementary + b * similarity
    expected = [twin.project_simplex(row) for row in point]
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_weights_in_extreme_cases(terms):
    shares, similarity, complementary = terms
    np.testing.assert_allclose(weights_of(terms, 0, 0), np.tile(shares, (6, 1)), atol=1e-6)
    np.testing.assert_array_equal(weights_of(terms, 0, 1000), np.eye(6))
    raised = weights_of((shares, similarity + 1, complementary), 0.3, 0.3)
    np.testing.assert_allclose(raised, weights_of(terms, 0.3, 0.3), atol=1e-6)


# --- directions and their agreement ---------------------------------------------------------------


def test_an_item_sampled_twice_counts_twice():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(12, 5)) * [3, 2, 1, 0.5, 0.3]
    times = np.array([0, 3, 1, 2, 1, 4, 1, 0, 2, 1, 1, 0])
    table[0] = 100  # never sampled
    share = np.float32(times / times.sum())
    ours = principal_directions(jnp.float32(table), jnp.asarray(share), 3)
    np.testing.assert_allclose(ours, directions_of(np.repeat(table, times, axis=0), 3), atol=1e-5)
    once = directions_of(table[times > 0], 3)
    assert np.abs(ours - once).max() > 0.01


@pytest.mark.parametrize("subspace", ["samples", "interactions"])
def test_rows_that_span_the_subspace(subspace):
    """Item 5 and its negatives 8 and 2, item 3 and its negatives 2 and 9."""
    session = ClientSamples(
        rows=jnp.int32([5, 8, 2, 3, 9, 10]), labels=jnp.float32([1, 0, 0, 1, 0, 0]),
        row_of=jnp.int32([0, 1, 2, 3, 2, 4, 0, 0]), count=jnp.int32(6),
        order=lambda epoch, position, count: position, rule=Rule(4, 1, jnp.float32(0)),
    )  # fmt: skip
    times = [1, 1, 2, 1, 1, 0] if subspace == "samples" else [1, 0, 0, 1, 0, 0]
    expected = np.array(times) / sum(times)
    np.testing.assert_allclose(sampled_share(session, subspace), expected, rtol=1e-6)


def bases(seed, clients=5, number=3, dim=6):
    rng = np.random.default_rng(seed)
    return np.array([np.linalg.qr(rng.normal(size=(dim, number)))[0].T for _ in range(clients)])


def test_greedy_agreement_is_that_of_the_loop_and_minds_signs():
    directions = bases(2)
    ours = np.asarray(complementarity(jnp.float32(directions), "greedy"))
    expected = [[agreement(a, b) for b in directions] for a in directions]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    opposite = np.stack([directions[0], -directions[0]])
    assert complementarity(jnp.float32(opposite), "greedy")[0, 1] < 0.1
    assert complementarity(jnp.float32(opposite), "angles")[0, 1] > 0.999


def test_agreement_by_principal_angles():
    directions = bases(3)
    ours = np.asarray(complementarity(jnp.float32(directions), "angles"))
    angles = [[scipy.linalg.subspace_angles(a.T, b.T) for b in directions] for a in directions]
    np.testing.assert_allclose(ours, np.cos(np.mean(angles, axis=-1)), rtol=0, atol=1e-5)
    assert (ours > complementarity(jnp.float32(directions), "greedy") + 0.05).sum() >= 10


def test_eigenproblems_of_a_block_are_solved_one_by_one():
    """A batch of them hangs where several CPU devices solve one at once."""
    matrices = jnp.zeros((40, 5, 5))
    lowered = jax.jit(jax.vmap(eigensystem)).lower(matrices)
    solved = [line for line in lowered.as_text().splitlines() if "syevd" in line]
    if jax.default_backend() != "cpu":
        pytest.skip("on CPU")
    assert solved
    assert not any("40x5x5" in line for line in solved)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fedca_finds_the_withheld_items():
    config = FedCA(
        dim=8, init_scale=0.1, lr_embedding=0.05, local_epochs=2, bce="logit", rounds=40,
        size_classes=1, aggregation_fraction=1.0, interpolation=0.5, similarity_weight=0.02,
        complementarity_weight=0.02, top_k=5,
    )  # fmt: skip
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    state = simulation.init()
    _, info, ranks = simulation.segment(state, config.rounds)(state, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert record["val"]["hr@5"] > 2 * CHANCE
    assert record["test"]["hr@5"] > 2 * CHANCE

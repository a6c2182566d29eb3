"""CoFedRec against plain NumPy in float64, one client after the other, and in cases with a known
answer."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
import twin
from replay import draws_of
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.client.contrast import supervised_contrast
from fedem_jax.config.settings import CoFedRec
from fedem_jax.methods.cofedrec import elbow, likeness, mean_table
from fedem_jax.runs.simulation import Simulation
from fedem_jax.server.clustering import k_means, settled, spread_out

GENTLE = CoFedRec(
    dim=4, local_epochs=2, batch_size=16, num_negative=2, lr_network=0.05, lr_item_factor=0.5,
    bce="logit", client_fraction=0.9, num_clusters=5, contrast=0.3, temperature=0.4,
    base_temperature=0.5, size_classes=1,
)  # fmt: skip
"""Six of seven clients train. The stable loss and short steps, so that nothing but rounding is
between the two; a contrast that moves the tables about as far as the samples do."""


class Rounds:
    """Compiled rounds, one at a time, from any state and with any numbers."""

    def __init__(self, config):
        self.simulation = Simulation(config, small_federation(), jax.devices()[:1])
        self.start = self.simulation.init()
        self.program = jax.jit(partial(self.simulation._rounds, 1))

    def after(self, state, number, **numbers):
        """State and losses after round `number`, with other `numbers`."""
        simulation = self.simulation
        hyper = simulation.algorithm.hyper._replace(**numbers)
        rest = (simulation.key_draws, simulation.lists, simulation.held_out, hyper)
        state, info, _ = self.program(state, jnp.int32(number), *rest)
        return state, np.asarray(info.loss[0])

    def chosen(self, number):
        """Clients whose table arrives; the client and the cluster that the server draws."""
        draws = self.simulation.draws(
            self.simulation.key_draws, jnp.int32(number), self.simulation.lists
        )
        participants = draws.participants()
        if self.simulation.config.dropout:
            participants = draws.uploaders(participants)
        participants = np.asarray(participants)
        _, key_client, key_cluster = jax.random.split(draws.server(), 3)
        client = int(jax.random.choice(key_client, participants))
        cluster = int(jax.random.randint(key_cluster, (), 0, GENTLE.num_clusters))
        return participants, client, cluster


# --- whole rounds, against NumPy ------------------------------------------------------------------


def contrast_of(table, cluster, tau, tau_0):
    """SupCon and its gradient, with all pairs of items at once."""
    length = np.linalg.norm(table, axis=1, keepdims=True)
    z, number = table / length, len(table)
    s = z @ z.T / tau
    s = s - s.max(axis=1, keepdims=True)
    apart = ~np.eye(number, dtype=bool)
    together = (cluster[:, None] == cluster[None, :]) & apart
    total = (np.exp(s) * apart).sum(1, keepdims=True) + 1e-6
    others = together.sum(1, keepdims=True)
    share = together / (others + 1e-6)  # of j in the mean of i
    loss = -(tau / tau_0) * (share * (s - np.log(total))).sum(1).mean()
    slope = share - share.sum(1, keepdims=True) * np.exp(s) * apart / total  # of -l_i along s_ij
    slope = -(tau / tau_0) / number * (slope + slope.T) @ z / tau
    return loss, (slope - z * (z * slope).sum(1, keepdims=True)) / length


class Loop:
    """CoFedRec, client by client."""

    def __init__(self, rounds):
        self.config, clients = rounds.simulation.config, rounds.start.clients
        self.kernels = np.array(clients.private["Dense_0"]["kernel"][..., 0], float)
        self.biases = np.array(clients.private["Dense_0"]["bias"][..., 0], float)
        self.tables = np.array(clients.items, float)
        self.cluster = None

    def batch(self, u, items, labels):
        """A step of the score function, then one of the table; the loss of the second."""
        config, table = self.config, self.tables[u]
        rows = table[items]

        def bce():
            loss, slope = twin.bce(rows @ self.kernels[u] + self.biases[u], labels, "logit")
            return loss.mean(), slope / len(items)

        _, slope = bce()
        self.kernels[u] = self.kernels[u] - config.lr_network * slope @ rows
        self.biases[u] = self.biases[u] - config.lr_network * slope.sum()
        loss, slope = bce()
        gradient = np.zeros_like(table)
        np.add.at(gradient, items, np.outer(slope, self.kernels[u]))
        if self.cluster is not None:
            taus = config.temperature, config.base_temperature
            apart, push = contrast_of(table, self.cluster, *taus)
            loss, gradient = loss + config.contrast * apart, gradient + config.contrast * push
        lr = config.lr_network * len(table) * config.lr_item_factor
        self.tables[u] = table - lr * gradient
        return loss

    def round(self, sampled, chosen, cluster):
        """`cluster`: what K-means makes of the mean table of this round."""
        losses, config = np.full(len(self.tables), np.nan), self.config
        participants, client, theme = chosen
        for u, drawn in sampled.items():
            total = 0
            for epoch in range(config.local_epochs):
                for batch in drawn.batches(epoch, config.batch_size):
                    total += self.batch(u, drawn.items[batch], drawn.labels[batch]) * len(batch)
            losses[u] = total / drawn.orders.size
        self.cluster, self.mean = cluster, self.tables[participants].mean(0)

        on_theme = self.tables[participants][:, cluster == theme]
        mine = self.tables[client][cluster == theme]
        lengths = np.linalg.norm(on_theme, axis=2) * np.linalg.norm(mine, axis=1)
        alike = ((on_theme * mine).sum(2) / lengths).sum(1)
        order = np.argsort(-alike, kind="stable")
        points = np.stack([np.arange(len(order)), alike[order]], axis=1)
        line = (points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0])
        gap = points - points[0]
        gap = np.linalg.norm(gap - (gap @ line)[:, None] * line, axis=1)
        self.group = participants[order[: gap.argmax() + 1]]
        assert client in self.group
        self.tables[self.group] = self.tables[self.group].mean(0)
        return losses


@pytest.fixture(scope="module")
def rounds():
    return Rounds(GENTLE)


def test_rounds_are_those_of_the_loop(rounds):
    assert len(loop_along(rounds)) > 1


@pytest.mark.slow
def test_a_client_whose_table_is_lost_is_in_no_mean_and_no_group():
    rounds = Rounds(dataclasses.replace(GENTLE, dropout=0.4))
    assert len(rounds.chosen(0)[0]) == 4
    loop_along(rounds)


def loop_along(rounds):
    """Compare three rounds with the loop; the sizes of the groups."""
    state, loop, sizes = rounds.start, Loop(rounds), set()
    score, hyper = jax.jit(rounds.simulation.algorithm.score), rounds.simulation.algorithm.hyper
    for number in range(3):
        state, losses = rounds.after(state, number)
        cluster = np.asarray(state.server.cluster)
        drawn = draws_of(rounds.simulation, number)
        expected = loop.round(drawn, rounds.chosen(number), cluster)
        dense = state.clients.private["Dense_0"]
        logits = np.einsum("cid,cd->ci", loop.tables, loop.kernels) + loop.biases[:, None]
        pairs = [
            (losses, expected),
            (dense["kernel"][..., 0], loop.kernels),
            (dense["bias"][..., 0], loop.biases),
            (state.clients.items, loop.tables),
            (score(state, jnp.arange(7), hyper), logits),
        ]
        for ours, theirs in pairs:
            near = 1e-5 * np.nanmax(np.abs(theirs))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=near, err_msg=f"round {number}")
        means = np.array([loop.mean[cluster == k].mean(0) for k in range(GENTLE.num_clusters)])
        gaps = np.linalg.norm(loop.mean[:, None] - means[None], axis=2)
        assert (gaps.argmin(1) == cluster).all()  # K-means of the mean table
        sizes.add(len(loop.group))
    return sizes


def test_without_weight_the_contrast_changes_nothing(rounds):
    """Nor does it before there are clusters. It is not computed at all: NaN would spread."""
    state, _ = rounds.after(rounds.start, 0)
    nowhere = state._replace(server=state.server._replace(cluster=-1 + 0 * state.server.cluster))
    numbers = {"contrast": jnp.float32(0), "temperature": jnp.float32(np.nan)}
    off = rounds.after(state, 1, **numbers)
    jax.tree.map(np.testing.assert_array_equal, off, rounds.after(nowhere, 1))
    (on, _), (off, _) = rounds.after(state, 1), off
    assert np.abs(np.asarray(on.clients.items) - np.asarray(off.clients.items)).max() > 0.01


# --- the contrastive loss -------------------------------------------------------------------------


def naive(table, cluster, tau, tau_0):
    """The formula, all pairs at once."""
    z = table / jnp.linalg.norm(table, axis=1, keepdims=True)
    s = z @ z.T / tau
    s = s - jax.lax.stop_gradient(s.max(axis=1, keepdims=True))
    apart = 1 - jnp.eye(len(table))
    together = (cluster[:, None] == cluster[None, :]) * apart
    log_share = s - jnp.log((jnp.exp(s) * apart).sum(1, keepdims=True) + 1e-6)
    return (-tau / tau_0 * (together * log_share).sum(1) / (together.sum(1) + 1e-6)).mean()


ITEMS = 601
"""Three tiles to a side, the last of them padded."""


@cache
def program(loss):
    return jax.jit(jax.value_and_grad(loss))


def both(cluster, tau=0.1):
    """Loss and gradient of ours, and of the formula."""
    table = jnp.float32(np.random.default_rng(0).normal(size=(ITEMS, 8)))
    rest = jnp.asarray(cluster, jnp.int32), jnp.float32(tau), jnp.float32(0.5)
    return [program(loss)(table, *rest) for loss in (supervised_contrast, naive)]


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_contrast_is_that_of_all_pairs(tau):
    cluster = np.random.default_rng(1).integers(0, 20, ITEMS)
    cluster[7] = 20  # alone
    (ours, slope), (theirs, expected) = both(cluster, tau)
    assert ours == pytest.approx(float(theirs), rel=1e-5)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_contrast_of_one_cluster_and_of_singletons():
    (ours, slope), (theirs, expected) = both(np.zeros(ITEMS))
    assert ours == pytest.approx(float(theirs), rel=1e-5)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-4
    (ours, slope), _ = both(np.arange(ITEMS))
    assert ours == 0
    np.testing.assert_array_equal(slope, np.zeros((ITEMS, 8)))


def test_contrast_of_two_pairs_by_hand():
    """z = e_1, e_1, e_2, e_2: s = 0 within a pair and -1 / tau across."""
    table = jnp.float32([[2, 0], [1, 0], [0, 3], [0, 1]])
    pairs, tau, tau_0 = jnp.int32([0, 0, 1, 1]), jnp.float32(0.2), jnp.float32(0.5)
    expected = 0.4 * np.log(1 + 2 * np.exp(-5) + 1e-6)
    assert supervised_contrast(table, pairs, tau, tau_0) == pytest.approx(expected, rel=1e-5)


# --- clusters, likeness, elbow --------------------------------------------------------------------


clustering = jax.jit(k_means, static_argnums=2)


def clusters(rows, number, seed=0):
    return np.asarray(clustering(jax.random.key(seed), jnp.float32(rows), number))


def spread(rows, cluster):
    """Sum of squared distances to the mean of the own cluster."""
    return sum(((rows[cluster == k] - rows[cluster == k].mean(0)) ** 2).sum()
               for k in np.unique(cluster))  # fmt: skip


def test_clusters_that_lie_apart_are_found():
    rng = np.random.default_rng(3)
    truth = rng.permutation(np.repeat(np.arange(8), 25))
    rows = 5 * rng.normal(size=(8, 4))[truth] + 0.1 * rng.normal(size=(200, 4)) + 100
    cluster = clusters(rows, 8)
    assert len({*zip(truth, cluster, strict=True)}) == 8
    assert set(cluster) == set(range(8))


def test_clusters_settle_and_are_as_tight_as_those_of_scipy():
    rows = np.random.default_rng(4).normal(size=(200, 4))
    found = []
    for seed in range(10):
        cluster = clusters(rows, 8, seed)
        centres = np.array([rows[cluster == k].mean(0) for k in range(8)])
        nearest = np.linalg.norm(rows[:, None] - centres[None], axis=2).argmin(1)
        assert (nearest != cluster).mean() < 0.05
        found.append(spread(rows, cluster))
    assert len(set(found)) > 3  # the start is random
    theirs = [scipy.cluster.vq.kmeans2(rows, 8, minit="++", rng=s)[1] for s in range(10)]
    assert np.mean(found) < 1.01 * np.mean([spread(rows, cluster) for cluster in theirs])


def test_the_start_is_better_than_one_of_random_rows_at_growing_distance():
    rng = np.random.default_rng(8)
    rows, ours, plain = rng.normal(size=(200, 4)), [], []

    def gap(centres):
        return (np.linalg.norm(rows[:, None] - centres[None], axis=2) ** 2).min(1)

    start = jax.jit(spread_out, static_argnums=2)
    for seed in range(20):
        centres = np.asarray(start(jax.random.key(seed), jnp.float32(rows), 8))
        assert (gap(centres) < 1e-9).sum() == 8  # eight of the rows
        ours.append(gap(centres).sum())
        centres = rows[rng.integers(200, size=1)]
        while len(centres) < 8:
            left = gap(centres)
            centres = np.concatenate([centres, rows[rng.choice(200, 1, p=left / left.sum())]])
        plain.append(gap(centres).sum())
    assert np.mean(ours) < 0.95 * np.mean(plain)


def test_a_centre_next_to_no_row_stays_where_it_was():
    """Moved to the middle, it would take over both inner rows."""
    rows, centres = jnp.float32([[-9], [-1], [1], [9]]), jnp.float32([[-5], [5], [99]])
    np.testing.assert_array_equal(settled(rows, centres), [0, 0, 1, 1])


def test_as_many_clusters_as_rows_and_more_than_distinct_ones():
    rows, four = np.random.default_rng(5).normal(size=(12, 3)), np.repeat(np.arange(3), 4)
    assert set(clusters(rows, 12)) == set(range(12))
    assert len({*zip(four, clusters(rows[four], 12), strict=True)}) == 3


@pytest.mark.parametrize(
    ("falling", "expected"),
    [
        ([10, 9, 8, 2, 1, 0], 2),  # above the line
        ([10, 3, 2, 1.5, 1, 0], 1),  # below it
        ([5, 4, 3, 2], 0),  # on it
        ([7], 0),
        ([4, 4, 4], 0),
    ],
)
def test_elbow(falling, expected):
    assert elbow(jnp.float32(falling)) == expected


def test_likeness_counts_the_items_of_the_theme():
    tables, theme = np.random.default_rng(6).normal(size=(7, 60, 4)), np.arange(60) % 3 == 1
    ours = likeness(jnp.float32(tables), jnp.float32(tables[2]), jnp.asarray(theme))
    z = tables / np.linalg.norm(tables, axis=2, keepdims=True)
    np.testing.assert_allclose(ours, (z * z[2])[:, theme].sum((1, 2)), rtol=0, atol=1e-5)
    assert ours[2] == pytest.approx(20, rel=1e-6)
    assert np.argmax(ours) == 2


def test_mean_of_the_chosen_tables(rounds):
    tables = np.random.default_rng(7).normal(size=(7, 60, 4))
    chosen = np.array([0, 1, 1, 0, 1, 0, 0], bool)
    ours = mean_table(rounds.simulation.layout, jnp.float32(tables), jnp.asarray(chosen))
    np.testing.assert_allclose(ours, tables[chosen].mean(0), rtol=0, atol=1e-6)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cofedrec_finds_the_withheld_items():
    config = CoFedRec(
        dim=8, init_scale=0.1, lr_network=0.1, lr_item_factor=10.0, local_epochs=2, bce="logit",
        rounds=40, size_classes=1, num_clusters=2, contrast=0.005, top_k=5,
    )  # fmt: skip
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    state = simulation.init()
    _, info, ranks = simulation.segment(state, config.rounds)(state, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert record["val"]["hr@5"] > 2 * CHANCE
    assert record["test"]["hr@5"] > 2 * CHANCE

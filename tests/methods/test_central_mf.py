"""Centralised matrix factorisation against a loop over samples in float64.

The stable loss, so that nothing but the rounding of the program under test is between them.
"""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from replay import draws_of, rounds_of
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.config.settings import CentralMF
from fedem_jax.core.sampling import shuffle
from fedem_jax.runs.simulation import Simulation

CONFIG = CentralMF(
    dim=4, local_epochs=2, batch_size=48, lr_embedding=0.01, weight_decay=0.01, init_scale=0.5,
    num_negative=2, bce="logit", client_fraction=0.8, size_classes=2, block_size=3,
)  # fmt: skip
ROUNDS = 2
NEAR = {"rtol": 2e-5, "atol": 2e-5}


def bound(devices=1, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Simulation(config, small_federation("leak-free", 9), jax.devices()[:devices])


# --- the loop -------------------------------------------------------------------------------------


def order_of(simulation, number, epoch, count):
    """Sample at each position of an epoch."""
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    key = jax.random.fold_in(draws.server(), epoch)
    every = len(simulation.federation.items) * (1 + simulation.config.num_negative)
    position = jnp.minimum(jnp.arange(every, dtype=jnp.int32), count - 1)
    return np.asarray(shuffle(key, jnp.int32(count))(position))[:count]


def pool_of(simulation, number):
    """(client, item, label or second item) of every sample, client after client."""
    pool, every = [], 1 + simulation.config.num_negative
    for client, drawn in draws_of(simulation, number).items():
        for i, (item, label) in enumerate(zip(drawn.items, drawn.labels, strict=True)):
            if simulation.config.loss == "bce":
                pool.append((client, item, label))
            elif label == 0:
                pool.append((client, drawn.items[i - i % every], item))
    return pool


def gradients(user, table, samples, config):
    """Gradients of the mean loss of a batch and of the penalty, and each sample's loss."""
    user_grad, table_grad = config.weight_decay * user, config.weight_decay * table
    losses = []
    for client, item, third in samples:
        if config.loss == "bce":
            row, label, second = table[item], third, None
        else:
            row, label, second = table[item] - table[third], 1.0, third
        loss, slope = twin.bce(np.array(row @ user[client]), np.array(label), "logit")
        user_grad[client] += slope * row / len(samples)
        table_grad[item] += slope * user[client] / len(samples)
        if second is not None:
            table_grad[second] -= slope * user[client] / len(samples)
        losses.append((client, loss))
    return user_grad, table_grad, losses


def loop(simulation, rounds):
    """(user vectors, table, moments, mean loss of each client) after each round."""
    config, federation = simulation.config, simulation.federation
    clients, server = jax.tree.map(np.float64, simulation.init())
    params = [clients.user, server.items]
    moments = twin.adam_init(params)
    for number in range(rounds):
        pool = pool_of(simulation, number)
        assert len(pool) > 2 * config.batch_size  # there are several batches,
        assert len(pool) % config.batch_size  # and the last one holds fewer
        idle = np.setdiff1d(np.arange(federation.num_clients), [client for client, *_ in pool])
        before = (params[0], moments.mean[0], moments.square[0])
        losses = [[] for _ in range(federation.num_clients)]
        for epoch in range(config.local_epochs):
            order = order_of(simulation, number, epoch, len(pool))
            assert len(set(order)) == len(pool)
            for start in range(0, len(pool), config.batch_size):
                batch = [pool[i] for i in order[start : start + config.batch_size]]
                user_grad, table_grad, lost = gradients(*params, batch, config)
                params, moments = twin.adam(
                    params, [user_grad, table_grad], moments, config.lr_embedding
                )
                for client, loss in lost:
                    losses[client].append(loss)
        now = (params[0], moments.mean[0], moments.square[0])
        for new, old in zip(now, before, strict=True):
            new[idle] = old[idle]
        mean = [np.mean(each) if each else np.nan for each in losses]
        yield params[0].copy(), params[1].copy(), moments.mean[0].copy(), mean


@pytest.fixture(scope="module")
def reached():
    simulation = bound()
    return simulation, rounds_of(simulation, ROUNDS)


def assert_equal_to_the_loop(simulation, ours):
    sat_out = False
    for mine, theirs in zip(ours, loop(simulation, ROUNDS), strict=True):
        (clients, server, info, _, scores), (users, table, mean, losses) = mine, theirs
        np.testing.assert_allclose(server.items, table, **NEAR)
        np.testing.assert_allclose(clients.user, users, **NEAR)
        np.testing.assert_allclose(server.moments.mu.user, mean, **NEAR)
        np.testing.assert_allclose(info.loss, losses, **NEAR)
        np.testing.assert_array_equal(info.epochs, np.where(np.isnan(losses), 0, 2))
        np.testing.assert_allclose(scores, users @ table.T, **NEAR)
        sat_out = sat_out or np.isnan(losses).any()
    assert sat_out


def test_rounds_are_those_of_a_loop_over_samples(reached):
    assert_equal_to_the_loop(*reached)


def test_rounds_by_pairs_are_those_of_a_loop_over_pairs():
    simulation = bound(loss="bpr")
    assert_equal_to_the_loop(simulation, rounds_of(simulation, ROUNDS))


def test_who_sits_out_stays_as_it_was(reached):
    _, ours = reached
    for (before, server, *_), (clients, later, info, *_) in pairwise(ours):
        idle = info.epochs == 0
        assert idle.any()
        np.testing.assert_array_equal(clients.user[idle], before.user[idle])
        for name in ("mu", "nu"):
            old, new = getattr(server.moments, name).user, getattr(later.moments, name).user
            np.testing.assert_array_equal(new[idle], old[idle])
            assert (new[~idle] != old[~idle]).any(1).all()


@pytest.mark.slow
def test_two_devices_and_blocks_of_another_size_change_nothing(reached):
    _, ours = reached
    simulation = bound(devices=2, block_size=2, size_classes=1)
    place = simulation.layout.place
    for mine, other in zip(ours, rounds_of(simulation, 2), strict=False):
        np.testing.assert_allclose(other[0].user[place], mine[0].user, **NEAR)
        np.testing.assert_allclose(other[1].items, mine[1].items, **NEAR)
        np.testing.assert_allclose(other[1].moments.mu.user[place], mine[1].moments.mu.user, **NEAR)
        np.testing.assert_allclose(other[2].loss[place], mine[2].loss, **NEAR)


@pytest.mark.slow
def test_withheld_items_are_found():
    config = CentralMF(dim=8, lr_embedding=0.02, batch_size=256, rounds=20, size_classes=1, top_k=5)
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert min(record[part]["hr@5"] for part in ("val", "test")) > 0.7 > 2 * CHANCE

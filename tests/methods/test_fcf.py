"""FCF against a loop over clients in float64, its closed form against LAPACK, and its gradient
against differences of the loss that it is the gradient of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replay import arrived_in, rounds_of
from server_adam import ServerAdam
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.config.settings import FCF
from fedem_jax.core.linalg import solution
from fedem_jax.runs.simulation import Simulation

CONFIG = FCF(
    dim=4, confidence=3.0, regularization=0.7, lr_server=0.03, server_steps=2, init_scale=0.5,
    client_fraction=0.8, num_negative=2, size_classes=3, block_size=3,
)  # fmt: skip
ROUNDS = 3
NEAR = {"rtol": 2e-5, "atol": 2e-5}


def repeating():
    """A federation whose first clients hold their first item twice."""
    federation = small_federation("leak-free", 9)
    items = federation.items.copy()
    starts = federation.offsets[:3]
    items[starts + 1] = items[starts]
    return dataclasses.replace(federation, items=items)


def bound(devices=1, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Simulation(config, repeating(), jax.devices()[:devices])


def interactions(federation):
    """y_ui, [C I]."""
    liked = np.zeros((federation.num_clients, federation.num_items))
    for client in range(federation.num_clients):
        liked[client, federation.train_items(client)] = 1
    return liked


def participants_of(simulation, number):
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    return np.sort(draws.participants())


# --- the loop -------------------------------------------------------------------------------------


def vector(table, liked, config):
    """x_u by the formula, over all items."""
    weight = np.diag(1 + config.confidence * liked)
    matrix = table.T @ weight @ table + config.regularization * np.eye(table.shape[1])
    return np.linalg.solve(matrix, table.T @ weight @ liked)


def loss(table, users, liked, config):
    """Sum over clients and items of c_ui (y_ui - x_u . y_i)^2."""
    return np.sum((1 + config.confidence * liked) * (liked - users @ table.T) ** 2)


def loop(simulation, rounds):
    """(user vectors, table, loss of each client in the last exchange) after each round."""
    config, liked = simulation.config, interactions(simulation.federation)
    clients, server = jax.tree.map(np.float64, simulation.init())
    users, table, adam = clients.user, server.items, ServerAdam(config)
    for number in range(rounds):
        present, arrived = participants_of(simulation, number), arrived_in(simulation, number)
        losses = np.full(len(liked), np.nan)
        for _ in range(config.server_steps):
            sent = np.zeros_like(table)
            for u in present:
                x = vector(table, liked[u], config)
                for i, y in enumerate(table):
                    error = (1 + config.confidence * liked[u, i]) * (liked[u, i] - x @ y)
                    sent[i] += error * x * (u in arrived)
                losses[u] = loss(table, x[None], liked[u : u + 1], config) / len(table)
            table = table - adam.step(-2 * sent + 2 * config.regularization * table)
        for u in present:
            users[u] = vector(table, liked[u], config)
        yield users.copy(), table, losses


@pytest.fixture(scope="module")
def reached():
    simulation = bound()
    return simulation, rounds_of(simulation, ROUNDS)


def test_rounds_are_those_of_a_loop_over_clients(reached):
    simulation, ours = reached
    sat_out = set()
    for number, (mine, theirs) in enumerate(zip(ours, loop(simulation, ROUNDS), strict=True)):
        (clients, server, info, _, scores), (users, table, losses) = mine, theirs
        np.testing.assert_allclose(server.items, table, **NEAR)
        np.testing.assert_allclose(clients.user, users, **NEAR)
        np.testing.assert_allclose(info.loss, losses, **NEAR)
        np.testing.assert_allclose(scores, users @ table.T, **NEAR)
        present = participants_of(simulation, number)
        np.testing.assert_array_equal(np.flatnonzero(info.epochs), present)
        sat_out |= set(range(9)) - set(present)
    assert sat_out


@pytest.mark.slow
def test_gradients_that_do_not_arrive_are_not_in_the_sum():
    """All participants solve for their vectors all the same."""
    simulation = bound(dropout=0.3)
    assert len(arrived_in(simulation, 0)) == len(participants_of(simulation, 0)) - 2 == 5
    for mine, theirs in zip(rounds_of(simulation, 2), loop(simulation, 2), strict=True):
        (clients, server, info, *_), (users, table, losses) = mine, theirs
        np.testing.assert_allclose(server.items, table, **NEAR)
        np.testing.assert_allclose(clients.user, users, **NEAR)
        np.testing.assert_allclose(info.loss, losses, **NEAR)


def test_an_item_met_twice_counts_once(reached):
    simulation, _ = reached
    drawn = [simulation.federation.train_items(client) for client in range(3)]
    assert all(len(np.unique(items)) < len(items) for items in drawn)  # so the loop has met some


@pytest.mark.slow
def test_two_devices_and_blocks_of_another_size_change_nothing(reached):
    _, ours = reached
    simulation = bound(devices=2, block_size=2, size_classes=1)
    place = simulation.layout.place
    for mine, other in zip(ours, rounds_of(simulation, 2), strict=False):
        np.testing.assert_allclose(other[0].user[place], mine[0].user, **NEAR)
        np.testing.assert_allclose(other[1].items, mine[1].items, **NEAR)
        np.testing.assert_allclose(other[2].loss[place], mine[2].loss, **NEAR)


# --- its parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 64])
def test_the_closed_form_is_that_of_lapack(width):
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(7, 2 * width, width))
    matrix = np.einsum("bik,bil->bkl", rows, rows) + 2 * np.eye(width)
    right = rng.normal(size=(7, width))
    found = jax.jit(jax.vmap(solution))(jnp.float32(matrix), jnp.float32(right))
    expected = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max() * width)


def test_the_gradient_is_that_of_the_loss_after_the_clients_have_solved():
    """Central differences of sum_u min_x [loss_u + lambda |x|^2] + lambda |Y|^2. With a decay of 0,
    the first moment is the gradient."""
    simulation = bound(server_steps=1, beta1=0.0, client_fraction=1.0)
    config, liked = simulation.config, interactions(simulation.federation)
    table = np.float64(simulation.init().server.items)
    (_, server, *_), *_ = rounds_of(simulation, 1)

    def total(table):
        users = np.array([vector(table, each, config) for each in liked])
        penalty = config.regularization * (np.sum(users**2) + np.sum(table**2))
        return loss(table, users, liked, config) + penalty

    rng = np.random.default_rng(0)
    for item, column in zip(rng.permutation(len(table))[:12], np.arange(12) % 4, strict=True):
        nudge = np.zeros_like(table)
        nudge[item, column] = 1e-5
        slope = (total(table + nudge) - total(table - nudge)) / 2e-5
        assert server.moments.mu[item, column] == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_no_table_for_each_client_is_kept():
    simulation = Simulation(CONFIG, small_federation("leak-free", 9, items=400), jax.devices()[:1])
    state = jax.eval_shape(
        simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
    )
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert numbers <= 3 * 400 * CONFIG.dim + 9 * CONFIG.dim + 1


def test_every_step_costs_a_table_down_and_a_gradient_up():
    simulation = bound(table_dtype="bfloat16")
    present, numbers = len(participants_of(simulation, 0)), simulation.federation.num_items * 4
    traffic = simulation.algorithm.traffic
    assert present == 7
    assert (traffic.up, traffic.down) == (2 * present * numbers * 4, 2 * present * numbers * 2)


@pytest.mark.slow
def test_withheld_items_are_found():
    config = FCF(dim=8, rounds=30, size_classes=1, top_k=5)
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert min(record[part]["hr@5"] for part in ("val", "test")) > 0.7 > 2 * CHANCE

"""FedNCF against a plain loop over clients in NumPy, and what its averages and penalties do.

Both compute the stable loss, the loop in float64, so that nothing but the rounding of the program
under test is between them. The steps are short: Adam blows up the rounding of gradients that pass
through zero, which those of an overfitted network do.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import twin_ncf
from replay import arrived_in, draws_of, rounds_of
from server_adam import adam_of, moved
from toy import CHANCE, checkerboard, small_federation
from twin_ncf import Client, Network

from fedem_jax.config.settings import FedNCF
from fedem_jax.errors import UserError
from fedem_jax.methods.fedncf import Clients
from fedem_jax.models.ncf import adam
from fedem_jax.runs.simulation import Simulation

ROUNDS = 2
SMALL = {
    "dim": 5, "network_widths": (6, 3), "local_epochs": 3, "batch_size": 16,
    "lr_embedding": 0.01, "lr_network": 0.02, "weight_decay": 0.05, "bce": "logit",
}  # fmt: skip
CASES = {
    "mlp": FedNCF(**SMALL, num_negative=2, threshold=0.002, block_size=3, size_classes=1),
    "neumf": FedNCF(
        **SMALL, num_negative=1, threshold=0.02, variant="neumf", weighting="uniform",
        evaluated="local", client_fraction=0.9, size_classes=2, dropout=0.2,
    ),
}  # fmt: skip
CASES["a server with Adam"] = dataclasses.replace(
    CASES["neumf"], server_optimiser="adam", lr_server=0.02, beta1=0.5, server_decay=0.1
)
MANY = {"clients": 12, "items": 400}
DATA = {"mlp": {}, "neumf": MANY, "a server with Adam": MANY}
"""The samples of a round touch all items or only a part of them."""
NEAR = {"rtol": 2e-5, "atol": 2e-5}


def loop(simulation, clients: Clients, server):
    """What the rounds should lead to: everybody downloads G and W, trains them, uploads them.

    After each round: user vectors, G, W, what each client ranks with, and its epochs.
    """
    config, number = simulation.config, simulation.federation.num_clients
    common, network = np.float64(server.table.items), Network.of(server.network)
    users = [np.float64(user) for user in clients.private["user"]]
    own, networks = [{} for _ in users], [network] * number  # rows and networks of the last upload
    adam, adams = adam_of(config), [adam_of(config, 0.0) for _ in network.flat()]
    for r in range(ROUNDS):
        drawn, uploads, epochs = draws_of(simulation, r), {}, np.zeros(number, int)
        for u, mine in drawn.items():
            start = Client.start(users[u], common, network, [])
            uploads[u], epochs[u] = twin_ncf.local_train(start, None, mine, config)
            users[u], networks[u] = uploads[u].user, uploads[u].network
            own[u] = {item: uploads[u].table[item] for item in mine.items}
        arrived = [uploads[u] for u in arrived_in(simulation, r)]
        counts = [len(drawn[u].items) for u in arrived_in(simulation, r)]
        shares = np.ones(len(counts)) if config.weighting == "uniform" else np.array(counts)
        before, shares = common, shares / shares.sum()
        common = moved(adam, common, [each.table for each in arrived], shares)
        weights = zip(*(each.network.flat() for each in arrived), strict=True)
        network = network.like(
            [moved(*each, shares) for each in zip(adams, network.flat(), weights, strict=True)]
        )
        ranked_with = [(common, network)] * number
        if config.evaluated == "local":
            ranked_with = [(before.copy(), last) for last in networks]
            for (table, _), rows in zip(ranked_with, own, strict=True):
                for item, row in rows.items():
                    table[item] = row
        yield users, common, network, ranked_with, epochs


@pytest.fixture(
    scope="module",
    params=[each if each == "mlp" else pytest.param(each, marks=pytest.mark.slow)
            for each in CASES],
)  # fmt: skip
def case(request):
    """A simulation, its state before the first round, and that and more after each round."""
    federation = small_federation(**DATA[request.param])
    simulation = Simulation(CASES[request.param], federation, jax.devices()[:1])
    start = jax.tree.map(np.asarray, simulation.init())
    return simulation, start, rounds_of(simulation, ROUNDS)


def test_rounds_are_those_of_a_loop_over_clients(case):
    simulation, start, rounds = case
    for ours, theirs in zip(rounds, loop(simulation, *start), strict=True):
        clients, server, info, _, scores = ours
        users, common, network, ranked_with, epochs = theirs
        np.testing.assert_array_equal(info.epochs, epochs)
        np.testing.assert_allclose(clients.private["user"], users, **NEAR)
        np.testing.assert_allclose(server.table.items, common, **NEAR)
        for mine, expected in zip(Network.of(server.network).flat(), network.flat(), strict=True):
            np.testing.assert_allclose(mine, expected, **NEAR)
        expected = [twin_ncf.forward(network, user, table)[0]
                    for user, (table, network) in zip(users, ranked_with, strict=True)]  # fmt: skip
        np.testing.assert_allclose(scores, expected, **NEAR)


def test_the_cases_hold_what_could_go_wrong(case):
    """Several batches, early stops, clients of different sizes, clients that sit out."""
    simulation, start, rounds = case
    *_, (clients, server, info, *_) = rounds
    sizes = (1 + simulation.config.num_negative) * np.diff(simulation.federation.offsets)
    assert sizes.max() > 2 * 16
    assert len(np.unique(sizes)) > 3
    assert {2, 3} <= {epochs for each in rounds for epochs in each[2].epochs}
    assert (info.epochs == 0).any() == (simulation.config.client_fraction < 1)
    most = max(size.rows for size in simulation.layout.classes)
    assert (most < simulation.federation.num_items) == (simulation.config.variant == "neumf")
    now, then = ((each.table.items, each.network) for each in (server, start.server))
    change = jax.tree.map(lambda new, old: np.abs(new - old).max(), now, then)
    assert min(jax.tree.leaves(change)) > 0.005
    assert ("network" in clients.private) == (simulation.config.evaluated == "local")


# --- privacy and cost -----------------------------------------------------------------------------


def test_user_vectors_stay_at_home(case):
    """The server gets tables and networks, and no two clients have the same vector."""
    _, start, rounds = case
    clients, server, *_ = rounds[-1]
    assert set(server._fields) == {"table", "network"}
    assert not any(leaf.shape == (5,) for leaf in jax.tree.leaves(server))
    trained = np.flatnonzero((clients.private["user"] != start.clients.private["user"]).any(1))
    users = clients.private["user"][trained]
    assert len(np.unique(users, axis=0)) == len(trained) >= 6


def test_bytes_are_those_of_table_network_and_count(case):
    simulation, _, rounds = case
    participants = int((rounds[0][2].epochs > 0).sum())
    weights = 10 * 6 + 6 + 6 * 3 + 3 + 3 + 1 if simulation.config.variant == "mlp" else (
        2 * 3 * 6 + 6 + 6 * 3 + 3 + 3 + 1 + 2
    )  # fmt: skip
    model = 4 * (simulation.federation.num_items * 5 + weights)
    arrived = len(arrived_in(simulation, 0))
    assert (arrived < participants) == (simulation.config.dropout > 0)
    assert simulation.algorithm.traffic == (arrived * (model + 4), participants * model)


# --- the L2 penalty -------------------------------------------------------------------------------


def test_the_penalty_moves_the_network_alone_and_through_the_moments():
    """Without a gradient of the loss, a coupled penalty takes full steps towards zero, whatever its
    weight; a decoupled one would take steps of lr * weight_decay * w."""
    weights = jnp.array([[0.7, -0.2], [0.4, 0.0]])
    params = ({"user": jnp.array([1.0, -2.0]), "network": {"kernel": weights}}, jnp.ones((3, 2)))
    optimiser = adam(jnp.float32(0.5), jnp.float32(0.01), jnp.float32(1e-3))
    still = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimiser.update(still, optimiser.init(params), params)
    (private, table) = optax.apply_updates(params, update)
    np.testing.assert_array_equal(private["user"], params[0]["user"])
    np.testing.assert_array_equal(table, params[1])
    expected = weights - 0.01 * jnp.sign(weights)
    np.testing.assert_allclose(private["network"]["kernel"], expected, atol=1e-6)


def test_each_group_has_its_own_step_size():
    params = ({"user": jnp.zeros(2), "network": {"bias": jnp.zeros(1)}}, jnp.zeros((3, 2)))
    slopes = jax.tree.map(lambda leaf: leaf + 0.3, params)
    optimiser = adam(jnp.float32(0.5), jnp.float32(0.01), jnp.float32(1e-3))
    (private, table), _ = optimiser.update(slopes, optimiser.init(params), params)
    for step, lr in ((private["user"], 0.5), (table, 0.5), (private["network"]["bias"], 0.01)):
        np.testing.assert_allclose(step, -lr, rtol=1e-4)


# --- sizes ----------------------------------------------------------------------------------------


def test_a_vector_of_one_entry_cannot_be_shared_out():
    with pytest.raises(UserError, match="give at least 2"):
        FedNCF(variant="neumf", dim=1)
    FedNCF(variant="mlp", dim=1)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_withheld_items_are_found():
    config = FedNCF(
        dim=8, lr_embedding=0.1, lr_network=0.03, local_epochs=2, bce="logit",
        rounds=40, size_classes=1, top_k=5,
    )  # fmt: skip
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert min(record["val"]["hr@5"], record["test"]["hr@5"]) > 0.7 > 2 * CHANCE

"""FedEM with the NCF backbone: whole rounds against a plain loop over clients in NumPy, and a
network that stays where it is.

Both compute the stable loss, the loop in float64; steps are short, as in `test_fedncf`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
import twin_ncf
from replay import draws_of, rounds_of
from toy import CHANCE, checkerboard, small_federation
from twin_ncf import Client, Network

from fedem_jax.config.fedem import FedEM
from fedem_jax.methods.fedem import Upload
from fedem_jax.runs.simulation import Simulation

ROUNDS = 2
SMALL = FedEM(
    backbone="ncf", dim=4, network_widths=(6, 3), adapter_widths=(5,), local_epochs=3,
    batch_size=16, num_negative=1, lr_embedding=0.01, lr_network=0.02, lr_adapter=0.02,
    weight_decay=0.05, threshold=0.01, bce="logit", client_fraction=0.9, aggregation="sim",
    aggregation_fraction=0.6, similarity="cos", size_classes=1,
)  # fmt: skip
CASES = {merging: dataclasses.replace(SMALL, merging=merging) for merging in ("per-batch", "once")}
NEAR = {"rtol": 2e-5, "atol": 2e-5}


def adapter_of(params) -> twin.Adapter:
    """From the parameters of the JAX adapter."""
    layers = (params[f"Dense_{k}"] for k in range(len(params)))
    return [(np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in layers]


def loop(simulation, clients):
    """What the rounds should lead to.

    After each round: what the clients hold, the tables served, by client, and the scores.
    """
    config, federation = simulation.config, simulation.federation
    (user, *_), (table, *_) = np.float64(clients.private["user"]), np.float64(clients.items)
    params = clients.private["network"], clients.adapter
    network, theta = jax.tree.map(lambda leaf: leaf[0], params)
    start = Client.start(user, table, Network.of(network), adapter_of(theta))
    everybody, served = [start] * federation.num_clients, {}

    def merged(client, u):
        return twin.merge(client.table, served[u], client.adapter)[0]

    for number in range(ROUNDS):
        drawn = draws_of(simulation, number)
        for u, mine in drawn.items():
            client, target = Client.start(*everybody[u][:4]), None
            if u in served and config.merging == "once":
                client = twin_ncf.fit_adapter(client, served[u], mine, config)
            if u in served:
                client = Client.start(client.user, merged(client, u), *client[2:4])
                target = served[u] if config.merging == "per-batch" else None
            everybody[u], _ = twin_ncf.local_train(client, target, mine, config)
        draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
        chosen = np.asarray(draws.uploaders(draws.participants()))
        tables = np.array([everybody[u].table for u in chosen])
        alike = twin.similarity(np.array([*map(twin.principal_scores, tables)]), config.similarity)
        counts = np.array([len(drawn[u].items) for u in chosen])
        weights = twin.aggregation_weights(counts, alike, config.aggregation, config.alpha)
        served = dict(zip(chosen, twin.aggregate(weights, tables), strict=True))
        used = [merged(client, u) if u in served else client.table
                for u, client in enumerate(everybody)]  # fmt: skip
        scores = [twin_ncf.forward(client.network, client.user, table)[0]
                  for client, table in zip(everybody, used, strict=True)]  # fmt: skip
        yield list(everybody), served, np.array(scores)


@pytest.fixture(
    scope="module",
    params=[each if each == "per-batch" else pytest.param(each, marks=pytest.mark.slow)
            for each in CASES],
)  # fmt: skip
def case(request):
    """A simulation, its clients before the first round, and that and more after each round."""
    federation = small_federation(clients=6, items=400)
    simulation = Simulation(CASES[request.param], federation, jax.devices()[:1])
    start = jax.tree.map(np.asarray, simulation.init().clients)
    return simulation, start, rounds_of(simulation, ROUNDS)


def test_rounds_are_those_of_a_loop_over_clients(case):
    simulation, start, rounds = case
    for ours, theirs in zip(rounds, loop(simulation, start), strict=True):
        clients, server, _, _, scores = ours
        everybody, served, expected = theirs
        for u, client in enumerate(everybody):
            private, items, theta, slot, _ = jax.tree.map(lambda leaf, u=u: leaf[u], clients)
            np.testing.assert_allclose(private["user"], client.user, **NEAR)
            np.testing.assert_allclose(items, client.table, **NEAR)
            network = Network.of(private["network"]).flat()
            for mine, loops in zip(network, client.network.flat(), strict=True):
                np.testing.assert_allclose(mine, loops, **NEAR)
            for mine, loops in zip(adapter_of(theta), client.adapter, strict=True):
                for x, y in zip(mine, loops, strict=True):
                    np.testing.assert_allclose(x, y, **NEAR)
            assert (slot >= 0) == (u in served)
            if u in served:
                np.testing.assert_allclose(server.items[slot], served[u], **NEAR)
        np.testing.assert_allclose(scores, expected, **NEAR)


def test_the_cases_hold_what_could_go_wrong(case):
    """Several batches, early stops, merging clients that another table moves."""
    simulation, start, rounds = case
    (before, server, *_), (after, _, info, *_) = rounds
    assert 2 * np.diff(simulation.federation.offsets).max() > 16
    assert {2, 3} <= {epochs for each in rounds for epochs in each[2].epochs}
    merging = np.flatnonzero((before.slot >= 0) & (info.epochs > 0))
    assert len(merging) >= 2
    for u in merging:
        assert np.abs(server.items[before.slot[u]] - before.items[u]).max() > 0.01
    for new, old in zip(*map(jax.tree.leaves, (after.adapter, start.adapter)), strict=True):
        assert (new != old)[merging].any()


def test_the_network_stays_at_home(case):
    """Nothing of it is uploaded or served, and every client that trained has one of its own."""
    simulation, _, rounds = case
    clients, server, info, *_ = rounds[-1]
    assert Upload._fields == ("items", "samples", "adapter")
    assert simulation.config.adapter_sharing == "none"  # so that no adapter is sent
    assert [leaf.shape[1:] for leaf in jax.tree.leaves(server)] == [
        (simulation.federation.num_items, 4)
    ]
    plain = Simulation(dataclasses.replace(simulation.config, backbone="mf"), simulation.federation)
    assert simulation.algorithm.traffic == plain.algorithm.traffic
    trained = np.flatnonzero(info.epochs)
    for leaf in jax.tree.leaves(clients.private["network"]):
        assert len(np.unique(leaf[trained].round(6), axis=0)) == len(trained)


@pytest.mark.slow
def test_withheld_items_are_found():
    config = FedEM(
        backbone="ncf", dim=8, init_scale=0.1, lr_embedding=0.05, lr_network=0.02, local_epochs=2,
        bce="logit", rounds=30, size_classes=1, top_k=5, aggregation="avg", merging="replace",
        aggregation_fraction=1.0,
    )  # fmt: skip
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert min(record["val"]["hr@5"], record["test"]["hr@5"]) > 0.7 > 2 * CHANCE

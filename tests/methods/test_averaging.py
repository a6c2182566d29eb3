"""FedMF and PFedRec against a loop over clients in float64, whose tables are dense.

The stable loss, so that nothing but the rounding of the program under test is between them.
"""

import dataclasses

import jax
import numpy as np
import pytest
import twin
from in_turn import steps_in_turn
from replay import arrived_in, draws_of, rounds_of
from server_adam import adam_of, moved
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.config.settings import FedMF, PFedRec
from fedem_jax.runs.simulation import Simulation

SMALL = {
    "dim": 4, "num_negative": 2, "batch_size": 16, "bce": "logit", "client_fraction": 0.8,
    "size_classes": 2,
}  # fmt: skip
NEAR = {"rtol": 2e-5, "atol": 2e-5}


def bound(config):
    return Simulation(config, small_federation("leak-free", 9), jax.devices()[:1])


# --- the loops ------------------------------------------------------------------------------------


def trained_by_adam(user, table, drawn, config):
    """FedMF's client: p and Q by one Adam, until the running loss settles."""
    loop = twin.local_train(
        user, table, None, [], drawn.items, drawn.labels, drawn.orders, lr_adapter=0.0,
        batch_size=config.batch_size, lr_embedding=config.lr_embedding,
        threshold=config.threshold, bce="logit",
    )  # fmt: skip
    return loop.user, loop.table


def trained_in_turn(head, table, drawn, config, steps=None):
    """PFedRec's client: a step of (w, c), then one of Q by the new (w, c), batch by batch.

    `steps` receives the largest move of a row in each batch."""
    (weight, bias), table = head, table.copy()
    lr_items = config.lr_network * len(table) * config.lr_item_factor
    for epoch in range(len(drawn.orders)):
        for batch in drawn.batches(epoch, config.batch_size):
            items, labels = drawn.items[batch], drawn.labels[batch]
            _, slope = twin.bce(table[items] @ weight + bias, labels, "logit")
            weight = weight - config.lr_network * slope @ table[items] / len(batch)
            bias = bias - config.lr_network * slope.mean()
            _, slope = twin.bce(table[items] @ weight + bias, labels, "logit")
            moved = np.zeros_like(table)
            np.add.at(moved, items, np.outer(slope, weight) / len(batch))
            table -= lr_items * moved
            if steps is not None:
                steps.append(np.abs(lr_items * slope / len(batch)).max())
    return (weight, bias), table


def loop(simulation, train, start, score, rounds):
    """Everybody downloads G, trains it, uploads it; (own tables, parameters, G) after each round.

    Scores come from dense tables: what the program keeps as rows over the common table.
    """
    config, clients = simulation.config, simulation.federation.num_clients
    samples = np.diff(simulation.federation.offsets) * (1 + config.num_negative)
    private, common = start
    private, last = [private] * clients, np.tile(common, (clients, 1, 1))
    kept: list[dict] = [{} for _ in range(clients)]
    adam = adam_of(config)
    for number in range(rounds):
        drawn = draws_of(simulation, number)
        before, tables = common, {}
        for client, own in drawn.items():
            private[client], tables[client] = train(private[client], common, own, config)
        by_samples = getattr(config, "weighting", "uniform") == "samples"
        weight = {u: samples[u] if by_samples else 1 for u in arrived_in(simulation, number)}
        shares = np.array(list(weight.values())) / sum(weight.values())
        common = moved(adam, common, [tables[u] for u in weight], shares)
        for client in range(clients):
            if client in tables:
                last[client] = tables[client]
                touched = np.unique(drawn[client].items)
                rows = dict(zip(touched, tables[client][touched], strict=True))
                kept[client] = rows
            else:  # its own rows, over the table that the others started from
                last[client] = before
                for item, row in kept[client].items():
                    last[client][item] = row
        shown = last if config.evaluated == "local" else [common] * clients
        scores = np.stack([score(private[u], shown[u]) for u in range(clients)])
        yield private, common, scores


def start_of(simulation):
    """User vector (or score function) and item table that everybody starts from."""
    clients, server = jax.tree.map(np.asarray, simulation.init())
    mine = jax.tree.map(lambda leaf: np.float64(leaf[0]), clients.private)
    common = np.float64(server.items)
    if "user" in mine:
        return mine["user"], common
    return (mine["Dense_0"]["kernel"][:, 0], mine["Dense_0"]["bias"][0]), common


def by_product(user, table):
    return table @ user


def by_head(head, table):
    return table @ head[0] + head[1]


FEDMF = FedMF(**SMALL, lr_embedding=0.01, local_epochs=3, threshold=0.02, init_scale=0.5)
BY_ADAM = {"server_optimiser": "adam", "lr_server": 0.005, "beta1": 0.5, "server_decay": 0.1}
PFEDREC = PFedRec(**SMALL, lr_network=0.05, lr_item_factor=1.0, local_epochs=2)
CASES = {
    "fedmf": (FEDMF, trained_by_adam, by_product),
    "fedmf, own rows, uniform": (
        dataclasses.replace(FEDMF, evaluated="local", weighting="uniform"),
        trained_by_adam,
        by_product,
    ),
    "fedmf, plain steps": (
        dataclasses.replace(FEDMF, local_optimiser="sgd", lr_embedding=0.05, lr_item_factor=1.0),
        steps_in_turn,
        by_product,
    ),
    "fedmf, some uploads lost": (
        dataclasses.replace(FEDMF, evaluated="local", dropout=0.3),
        trained_by_adam,
        by_product,
    ),
    "fedmf, masked": (
        dataclasses.replace(FEDMF, secure_sum=True),
        trained_by_adam,
        by_product,
    ),
    "fedmf, stragglers": (
        dataclasses.replace(FEDMF, stragglers=0.6, threshold=0.0),
        trained_by_adam,
        by_product,
    ),
    "fedmf, a server with Adam": (
        dataclasses.replace(FEDMF, evaluated="local", dropout=0.3, **BY_ADAM),
        trained_by_adam,
        by_product,
    ),
    "pfedrec": (PFEDREC, trained_in_turn, by_head),
    "pfedrec, a server with Adam": (
        dataclasses.replace(PFEDREC, evaluated="global", **BY_ADAM),
        trained_in_turn,
        by_head,
    ),
    "pfedrec, stragglers": (
        dataclasses.replace(PFEDREC, stragglers=0.6),
        trained_in_turn,
        by_head,
    ),
    "pfedrec, some uploads lost": (
        dataclasses.replace(PFEDREC, dropout=0.3),
        trained_in_turn,
        by_head,
    ),
    "pfedrec, global": (
        dataclasses.replace(PFEDREC, evaluated="global"),
        trained_in_turn,
        by_head,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow_but("pfedrec, global", "fedmf, some uploads lost")
def test_rounds_are_those_of_a_loop_over_clients(case):
    config, train, score = CASES[case]
    simulation, rounds = bound(config), 3
    theirs = loop(simulation, train, start_of(simulation), score, rounds)
    idle = False
    for ours, (private, common, scores) in zip(rounds_of(simulation, rounds), theirs, strict=True):
        clients, server, info, _, our_scores = ours
        idle = idle or (info.epochs == 0).any()
        np.testing.assert_allclose(server.items, common, **NEAR)
        np.testing.assert_allclose(our_scores, scores, **NEAR)
        for client, mine in enumerate(private):
            own = jax.tree.map(lambda leaf, u=client: leaf[u], clients.private)
            if "user" in own:
                np.testing.assert_allclose(own["user"], mine, **NEAR)
            else:
                np.testing.assert_allclose(own["Dense_0"]["kernel"][:, 0], mine[0], **NEAR)
                np.testing.assert_allclose(own["Dense_0"]["bias"][0], mine[1], **NEAR)
    assert idle  # some client sat out, and ranked with what it had


def test_a_last_batch_of_one_sample_takes_a_large_step():
    """The mean is over the batch's own samples, never over its places."""
    simulation = bound(dataclasses.replace(PFEDREC, local_epochs=1))
    drawn, steps = next(iter(draws_of(simulation, 0).values())), []
    all_but_one = dataclasses.replace(simulation.config, batch_size=len(drawn.items) - 1)
    trained_in_turn(*start_of(simulation), drawn, all_but_one, steps)
    assert len(steps) == 2
    assert steps[1] > 5 * steps[0]


def test_steps_in_turn_are_not_joint_steps():
    simulation = bound(dataclasses.replace(PFEDREC, local_epochs=1, batch_size=256, lr_network=0.5))
    (weight, bias), table = start_of(simulation)
    drawn = next(iter(draws_of(simulation, 0).values()))
    _, in_turn = trained_in_turn((weight, bias), table, drawn, simulation.config)
    _, slope = twin.bce(table[drawn.items] @ weight + bias, drawn.labels, "logit")
    joint = table.copy()
    lr_items = simulation.config.lr_network * len(table)
    np.add.at(joint, drawn.items, -lr_items * np.outer(slope, weight) / len(slope))
    assert np.abs(in_turn - joint).max() > 1e-3


def test_no_table_for_each_client_is_kept():
    for config in (FEDMF, dataclasses.replace(FEDMF, evaluated="local")):
        simulation = Simulation(
            config, small_federation("leak-free", 9, items=400), jax.devices()[:1]
        )
        state = jax.eval_shape(
            simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
        )
        numbers = sum(leaf.size for leaf in jax.tree.leaves(state))
        assert numbers < 0.5 * 9 * 400 * config.dim


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedmf", "pfedrec"])
@pytest.mark.slow
def test_withheld_items_are_found(method):
    shared = {"dim": 8, "init_scale": 0.1, "bce": "logit", "rounds": 40, "size_classes": 1}
    if method == "fedmf":
        config = FedMF(**shared, lr_embedding=0.05, local_epochs=2, top_k=5)
    else:
        config = PFedRec(**shared, lr_network=0.1, lr_item_factor=20.0, local_epochs=2, top_k=5)
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert record["test"]["hr@5"] > 0.7 > 2 * CHANCE

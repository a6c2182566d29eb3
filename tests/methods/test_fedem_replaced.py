"""FedEM without tables of the clients: against the same rounds with tables, and against a loop over
clients in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from cutting import assert_equal, cut_off, resumed
from jaxprs import equations
from replay import rounds_of
from server_adam import adam_of, moved
from toy import small_federation

import fedem_jax as fj
from fedem_jax.analysis.bottleneck import Measured
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.table_storage import from_storage
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run

REPLACED = {"aggregation": "avg", "aggregation_fraction": 1.0, "merging": "replace"}
SMALL = REPLACED | {
    "dim": 4, "num_negative": 2, "batch_size": 16, "bce": "logit", "local_epochs": 3,
    "threshold": 0.02, "init_scale": 0.5, "lr_embedding": 0.05, "lr_item_factor": 1.0,
    "size_classes": 3, "block_size": 2, "top_k": 5,
}  # fmt: skip
SOLVED = SMALL | {
    "local_optimiser": "closed-form", "local_epochs": 1, "lr_embedding": 0.3, "confidence": 3.0,
    "regularization": 0.2,
}  # fmt: skip
CASES = {
    "closed form": FedEM(**SOLVED),
    "closed form, uniform": FedEM(**SOLVED, weighting="uniform"),
    "closed form, a server with Adam": FedEM(
        **SOLVED, server_optimiser="adam", lr_server=0.05, beta1=0.5, server_decay=0.1
    ),
    "closed form, two epochs": FedEM(**SOLVED | {"local_epochs": 2}),
    "closed form, half the bytes": FedEM(**SOLVED, table_dtype="bfloat16"),
    "Adam, early stops": FedEM(**SMALL),
    "plain steps, stragglers": FedEM(
        **SMALL | {"merging": "1"}, local_optimiser="sgd", stragglers=0.5, weighting="uniform"
    ),
    "network": FedEM(**SMALL, backbone="ncf", network_widths=(6,)),
}
ROUNDS = 3
NEAR = {"rtol": 2e-5, "atol": 2e-5}
OF_BITS = {"rtol": 2**-7, "atol": 2**-10}
"""A number that lies between two of bfloat16 goes to either of them."""


def federation_of():
    """Nine clients. Three hold their first item twice; the fifth has nothing to train on."""
    federation = small_federation("leak-free", 9)
    items, offsets = federation.items.copy(), federation.offsets.copy()
    starts = offsets[:3]
    items[starts + 1] = items[starts]
    first, end = offsets[4:6]
    offsets[5:] -= end - first
    return dataclasses.replace(
        federation, items=np.delete(items, np.s_[first:end]), offsets=offsets
    )


FEDERATION = federation_of()


def bound(config, devices=1):
    return Simulation(config, FEDERATION, jax.devices()[:devices])


# --- the same rounds ------------------------------------------------------------------------------


def in_order(simulation, reached):
    """p_u, losses and epochs of all clients, and G, after a round; ranks apart."""
    clients, server, info, ranks, _ = reached
    place, dim = simulation.layout.place, simulation.config.dim
    table = from_storage(jnp.asarray(server.items)).reshape(-1, dim)
    own = jax.tree.map(lambda leaf: leaf[place], (clients.private, info))
    return (own, table), simulation.in_order(ranks)


def assert_same_rounds(ours, theirs, near):
    """Rounds of both. Ranks may differ where two scores are as good as equal."""
    for mine, other in zip(rounds_of(ours, ROUNDS), rounds_of(theirs, ROUNDS), strict=True):
        found, ranks = in_order(ours, mine)
        expected, other_ranks = in_order(theirs, other)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **near), found, expected)
        assert np.mean(ranks.test_full == other_ranks.test_full) > 0.9


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow_but("Adam, early stops")
def test_rounds_are_those_of_clients_that_keep_their_tables(case):
    config = CASES[case]
    ours, theirs = bound(config), bound(Measured.of(config))
    assert len(ours.layout.classes) == 3
    assert ours.init().clients.items is None
    assert theirs.init().clients.items.shape == (9, *ours.init().server.items.shape)
    near = OF_BITS if config.table_dtype == "bfloat16" else NEAR
    assert_same_rounds(ours, theirs, near)


@pytest.mark.slow
def test_an_upload_in_half_the_bytes_is_rounded():
    """Number by number, as where tables are kept: the averages then have the same bits but where
    a sum lies between two numbers of bfloat16."""
    config = CASES["closed form, half the bytes"]
    ours, theirs = (rounds_of(bound(each), 1) for each in (config, Measured.of(config)))
    assert np.mean(ours[0][1].items == theirs[0][1].items[0]) > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("case", ["closed form", "Adam, early stops"])
def test_two_devices_compute_the_same(case):
    """Nine clients do not fill both, nor blocks of four."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    changed = dataclasses.replace(CASES[case], size_classes=1, block_size=4)
    ours = bound(changed, devices=2)
    assert ours.layout.padded == 10
    assert_same_rounds(ours, bound(CASES[case]), NEAR)


def solve(table, liked, config):
    """p_u over all items, by its formula."""
    weight = np.diag(1 + config.confidence * liked)
    matrix = table.T @ weight @ table + config.regularization * np.eye(table.shape[1])
    return np.linalg.solve(matrix, table.T @ weight @ liked)


def loop(simulation):
    """(p_u, G, losses) after each round, client after client, each with a table of its own."""
    config, federation = simulation.config, simulation.federation
    clients, server = jax.tree.map(np.float64, simulation.init())
    users, common = clients.private["user"], server.items
    counts = np.diff(federation.offsets) if config.weighting == "samples" else np.ones(9)
    adam = adam_of(config)
    for _ in range(ROUNDS):
        tables, losses = np.stack([common] * 9), np.full(9, np.nan)
        for u in range(9):
            liked = np.zeros(len(common))
            liked[federation.train_items(u)] = 1
            if not liked.any():
                continue
            users[u] = solve(common, liked, config)
            weight, error = 1 + config.confidence * liked, liked - common @ users[u]
            losses[u] = np.mean(weight * error**2)
            for i in range(len(common)):
                tables[u, i] += config.lr_embedding * weight[i] * error[i] * users[u]
        common = moved(adam, common, tables, counts / counts.sum())
        yield users.copy(), common, losses


@pytest.mark.parametrize(
    "case", ["closed form", "closed form, uniform", "closed form, a server with Adam"]
)
@pytest.mark.slow_but("closed form", "closed form, a server with Adam")
def test_rounds_in_closed_form_are_those_of_a_loop_over_clients(case):
    simulation = bound(CASES[case])
    for ours, theirs in zip(rounds_of(simulation, ROUNDS), loop(simulation), strict=True):
        (clients, server, info, _, scores), (users, common, losses) = ours, theirs
        np.testing.assert_allclose(clients.private["user"], users, **NEAR)
        np.testing.assert_allclose(server.items, common, **NEAR)
        np.testing.assert_allclose(info.loss, losses, **NEAR)
        np.testing.assert_allclose(scores, users @ common.T, **NEAR)
        np.testing.assert_array_equal(info.epochs, ~np.isnan(losses))
    drawn = [FEDERATION.train_items(client) for client in range(9)]
    assert len(set(drawn[0])) < len(drawn[0])  # an item met twice counts once
    assert len(drawn[4]) == 0  # and a client without items keeps its first vector


# --- when no tables are kept ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"merging": "per-batch"}, {"merging": "none"}, {"merging": "0.999"},
        {"aggregation": "both"}, {"aggregation": "cohort"}, {"aggregation_fraction": 0.9},
        {"client_fraction": 0.9}, {"dropout": 0.1}, {"on_nonfinite": "skip-client"},
        {"ldp_scale": 0.1}, {"ldp_clip": 1.0},
    ],
)  # fmt: skip
def test_tables_are_kept_where_one_may_be_read_again(changes):
    assert FedEM(**REPLACED | changes).keeps_tables
    for merging in ("replace", 1, "1.0"):
        assert not FedEM(**REPLACED | {"merging": merging}).keeps_tables


def test_numbers_are_kept_and_sent_as_planned():
    """Of clients p_u alone; up and down the same as with tables."""
    ours, theirs = (bound(kind(**SOLVED)) for kind in (FedEM, Measured))
    table = 4 * FEDERATION.num_items
    assert (ours.memory.clients, ours.memory.server) == (4 * 9 * 4, 4 * table + 1)
    assert theirs.memory.clients > 4 * 9 * table
    assert ours.algorithm.traffic == theirs.algorithm.traffic
    assert ours.algorithm.traffic == (9 * (4 * table + 4), 9 * 4 * table)
    most = max(size.positives for size in ours.layout.classes)
    each = most * (3 + 2 * 4) + 2 * 4 * 5 + FEDERATION.num_items
    assert ours.algorithm.scratch(2)["train"] == 2 * each + table
    two = bound(CASES["closed form, two epochs"]).algorithm.scratch(2)
    assert two["train"] == 2 * FEDERATION.num_items * (3 * 4 + 8) + table


def test_a_round_in_closed_form_makes_no_table_for_a_client():
    """Nor the matrix Q' Q."""
    simulation, items = bound(CASES["closed form"]), FEDERATION.num_items
    algorithm = simulation.algorithm

    def round(state):
        draws = simulation.draws(simulation.key_draws, jnp.int32(0), simulation.lists)
        return algorithm.round(draws, state, algorithm.hyper)

    found = list(equations(jax.make_jaxpr(round)(simulation.init()).jaxpr))
    shapes = {v.aval.shape for e in found for v in e.outvars}
    assert (items, 4) in shapes  # G
    assert not {(2, items, 4), (1, items, 4), (9, items, 4)} & shapes
    products = [e for e in found if e.primitive.name == "dot_general"]
    wide = [e for e in products if all(items in v.aval.shape for v in e.invars)]
    assert [e.outvars[0].aval.shape for e in wide] == [(4, 4)]  # once, for all clients


# --- what others ask of a run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two rounds of clients without and with tables."""
    path = tmp_path_factory.mktemp("runs")
    config = dataclasses.replace(CASES["closed form"], rounds=2, size_classes=1)
    return [
        run(each, FEDERATION, (), RunDirectory(path / type(each).__name__))
        for each in (config, Measured.of(config))
    ]


def test_tables_weights_and_lists_are_the_same(runs):
    ours, theirs = runs
    user = FEDERATION.user_ids[2]
    tables = [result.item_table(user) for result in runs]
    np.testing.assert_allclose(*tables, **NEAR)
    assert (ours.rho(user) == 1).all()
    assert ours.rho(user).equals(theirs.rho(user))
    lists = [result.recommend([user], k=5)["item"].tolist() for result in runs]
    assert lists[0] == lists[1]
    assert ours.summary["headline"]["test"] == theirs.summary["headline"]["test"]


def test_a_newcomer_solves_for_its_vector(runs):
    """By the table that all have; where clients keep their own there is none."""
    ours, theirs = runs
    items = np.array([3, 11, 20])
    table = np.float64(ours.states["last"].server.items)
    scores = table @ solve(table, np.isin(np.arange(len(table)), items).astype(float), ours.config)
    labels = FEDERATION.item_ids
    lists = ours.recommend_new(labels[items], k=len(table), round="last", exclude_seen=False)
    expected = pd.Series(scores, labels)[lists["item"]]
    np.testing.assert_allclose(lists["score"], expected, **NEAR)
    with pytest.raises(UserError, match="recommend_new: fedem with these settings has no table"):
        theirs.recommend_new(labels[items])


def test_nobody_takes_up_a_table_before_the_first_average():
    simulation = bound(CASES["closed form"], devices=min(2, len(jax.devices())))
    elastic, hyper = simulation.algorithm.elastic, simulation.algorithm.hyper
    state = simulation.init()
    first = elastic.aggregated(state, jnp.arange(2))
    np.testing.assert_array_equal(first[1], state.server.items)  # Q_0, that of everybody
    assert not elastic.waits(state).any()
    assert not elastic.rho(state, jnp.arange(2), hyper).any()
    state, *_ = simulation.segment(state, 1)(state, 0)
    np.testing.assert_array_equal(elastic.waits(state), simulation.layout.client < 9)
    assert (elastic.rho(state, jnp.arange(2), hyper) == 1).all()


def test_a_state_with_tables_is_not_taken_for_one_without(runs):
    """Nor the other way round: what is kept of one lacks what the other needs."""
    ours, theirs = runs
    for result, other, name in ((ours, theirs, "clients-items"), (theirs, ours, "server-served")):
        sentence = (
            rf"its parameters do not fit this run \({name} was not kept\); .* what clients keep"
        )
        with pytest.raises(UserError, match=sentence):
            run(dataclasses.replace(other.config, out=""), FEDERATION, start=result.path)


CUT = dataclasses.replace(CASES["closed form"], rounds=3, size_classes=1, checkpoint_every=1)


def test_a_checkpoint_of_clients_with_tables_is_refused(tmp_path):
    """It is what earlier versions wrote with these settings."""
    cut_off(Measured.of(CUT), FEDERATION, tmp_path / "run", 1)
    with pytest.raises(CannotResume, match=r"does not fit this run \(server-served was not kept\)"):
        resumed(CUT, FEDERATION, tmp_path / "run")


@pytest.mark.slow
def test_a_run_cut_off_ends_as_if_it_had_not_been(tmp_path):
    whole = run(CUT, FEDERATION, (), RunDirectory(tmp_path / "whole"))
    cut_off(CUT, FEDERATION, tmp_path / "cut", 1)
    result, _ = resumed(CUT, FEDERATION, tmp_path / "cut")
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


def test_one_constant_weight_shares_no_program_with_replacement():
    """Clients that keep a part of their tables need them."""
    names = bound(CASES["closed form"]).algorithm.hyper._fields
    zero, half, one, replace = (
        dataclasses.replace(CASES["closed form"], merging=merging).as_program(names)
        for merging in ("0", "0.5", "1", "replace")
    )
    assert zero == half != one == replace
    assert zero.keeps_tables
    assert not one.keeps_tables


@pytest.mark.slow
def test_a_bottleneck_study_measures_tables_that_no_round_reads():
    config = dataclasses.replace(CASES["closed form"], rounds=1, size_classes=1)
    study = fj.bottleneck(config, small_federation("leak-free", 9), alone=2)
    assert study.config == config
    loss = study.rounds[[f"loss {stage}" for stage in ("local", "replaced", "merged")]]
    np.testing.assert_allclose(loss["loss replaced"], loss["loss merged"], rtol=1e-4)
    assert (loss["loss local"] < loss["loss replaced"]).mean() > 0.5

"""What every method keeps to, whatever it computes, and whatever way the work is cut."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import Lab, assert_same, config_of, differs, own
from toy import CHANCE, checkerboard, permuted, small_federation

from fedem_jax.config.presets import preset
from fedem_jax.config.registry import METHODS
from fedem_jax.core.draws import KeyedDraws
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.runs.simulation import Simulation


@pytest.fixture(scope="module")
def labs():
    """One client after the other, in arrays of one size: the laboratory of each method."""
    return cache(lambda method: Lab(config_of(method)))


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def lab(labs, method):
    return labs(method)


@pytest.fixture(scope="module")
def result(lab):
    return lab.run()


# --- shapes, traces, transfers --------------------------------------------------------------------


def test_every_method_has_settings_and_a_maker():
    for method, (kind, _) in METHODS.items():
        assert preset("released", method=method) == kind()


def test_a_round_keeps_shapes_and_types(lab):
    after, info, ranks = jax.eval_shape(partial(lab.simulation._rounds, 2), lab.start, 0, *lab.rest)
    before = jax.eval_shape(lambda state: state, lab.start)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert {leaf.shape for leaf in jax.tree.leaves(info)} == {(2, 7)}
    assert all(len(leaf) == 7 for leaf in ranks)


@pytest.fixture(scope="module")
def halved(method):
    """A round with tables in half the bytes and clients side by side, traced, and its start."""
    config = config_of(method, table_dtype="bfloat16", block_size=4)
    simulation = Simulation(config, small_federation(), jax.devices()[:1])
    start = jax.eval_shape(
        simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
    )
    rest = (simulation.key_draws, simulation.lists, simulation.held_out, simulation.algorithm.hyper)
    with jax.default_matmul_precision("highest"):
        return start, jax.jit(partial(simulation._rounds, 1)).trace(start, jnp.int32(0), *rest)


def test_item_tables_may_be_stored_in_half_the_bytes(halved):
    start, traced = halved
    assert any(leaf.dtype == jnp.uint16 for leaf in jax.tree.leaves(start))  # bits of bfloat16
    after, *_ = traced.out_info
    kind = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(start)]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == kind


def test_a_gpu_has_all_operations_that_a_round_asks_for(halved):
    """Some linear algebra exists on a CPU only, and some of ours has code of its own elsewhere."""
    _, traced = halved
    assert "func.func public @main" in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_rounds_are_traced_once_and_stay_on_the_device(lab, result):
    traced, numbers = lab.traces, [jnp.int32(number) for number in range(3)]
    state = lab.start
    with jax.transfer_guard("disallow"):
        for number in numbers:
            state, *_ = lab.segment(state, number)
    assert lab.traces == traced
    assert_same(jax.tree.map(np.asarray, state), result[0])


CLIENTS, ITEMS, DIM, AGGREGATED = 7, 40, 4, 4
"""Sizes of the laboratory; 6 of its clients take part in a round."""
POSITIVES, ROWS = 24, 40
"""Of the client with the most: with 2 negatives of each its samples may touch all items."""
TABLE, VECTORS, SCORERS = ITEMS * DIM, CLIENTS * DIM, CLIENTS * (DIM + 1)
"""Numbers of an item table, of a vector of each client, and of a linear score function of each."""
NETWORK = (8 * 16 + 16) + (16 * 8 + 8) + (8 + 1)
"""Numbers of FedEM's adapter, and of FedNCF's network, both on pairs of width 2 x 4."""
DEEP = (8 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8) + (8 + 1)
"""Numbers of GPFedRec's network."""
HELD = {
    "fedem": (VECTORS + CLIENTS * (TABLE + NETWORK + 1), AGGREGATED * TABLE),
    "local-only": (VECTORS + CLIENTS * TABLE, 0),
    "central-mf": (VECTORS, TABLE + 2 * (VECTORS + TABLE) + 1),
    "fedmf": (VECTORS, 2 * TABLE),
    "fcf": (VECTORS, 3 * TABLE + 1),
    "fedncf": (VECTORS, 2 * TABLE + NETWORK),
    "pfedrec": (SCORERS + CLIENTS * (2 + ROWS * (1 + DIM)), 2 * TABLE),
    "gpfedrec": (VECTORS + CLIENTS * (DEEP + 2 * TABLE), TABLE),
    "fedrap": (SCORERS + CLIENTS * TABLE, TABLE + 1),
    "fedca": (VECTORS + CLIENTS * (TABLE + 4 * DIM + 1), AGGREGATED * TABLE),
    "cofedrec": (SCORERS + CLIENTS * TABLE, ITEMS),
}
"""Numbers that the clients keep, and the server: vectors or score functions, item tables, networks,
slots; the table before the last round, moments of Adam, counts, clusters of the items."""
TRAIN = (0, 5 * ROWS * DIM + 4 * ROWS + ITEMS)
"""Rows, both moments, gradient and update; samples; places of the items."""
EVALUATE = (0, TABLE + 8 * ITEMS)
MERGED = (0, 3 * TABLE + 8 * ITEMS)
"""With own table, served table and what is between them."""
SUMMED = (TABLE, TRAIN[1])
"""With the sum of what the clients send."""
POOL = CLIENTS * POSITIVES * (1 + 3)
"""A user and 3 items for each positive; every client has the places of the longest one."""
SCRATCH = {
    "fedem": {
        "train": TRAIN, "evaluate": MERGED,
        "aggregate": (AGGREGATED * (TABLE + 2 * ITEMS) + 6 * AGGREGATED**2, 0),
        "merge": (0, TRAIN[1] - ROWS * DIM + 3 * TABLE + ITEMS * (16 + 8 + 3)),
    },
    "local-only": {"train": TRAIN, "evaluate": EVALUATE},
    "central-mf": {
        "pool": (2 * POOL, 2 * POSITIVES * 4), "evaluate": (TABLE, 8 * ITEMS),
        "train": (POOL + 5 * (VECTORS + TABLE) + 16 * (4 * DIM + 16), 0),
    },
    "fedmf": {"train": SUMMED, "evaluate": EVALUATE},
    "fcf": {
        "exchange": (POSITIVES * (3 + 2 * DIM) + 2 * DIM * (DIM + 1) + ITEMS + 4 * TABLE, 0),
        "evaluate": (TABLE, 8 * ITEMS),
    },
    "fedncf": {
        "train": (TABLE, TRAIN[1] + 5 * NETWORK),
        "evaluate": (0, EVALUATE[1] + ITEMS * (2 * DIM + 16)),
    },
    "pfedrec": {"train": SUMMED, "evaluate": EVALUATE},
    "gpfedrec": {
        "train": (0, TRAIN[1] + 2 * TABLE - ROWS * DIM + 2 * 16 * (8 + 32 + 16 + 8)),
        "evaluate": (0, EVALUATE[1] + ITEMS * (8 + 32 + 16 + 8)),
        "aggregate": (3 * CLIENTS * (CLIENTS + TABLE) + CLIENTS * TABLE, 0),
    },
    "fedrap": {
        "train": (TABLE, TRAIN[1] + 2 * TABLE - ROWS * DIM),
        "evaluate": (0, 2 * TABLE + 8 * ITEMS),
    },
    "fedca": {
        "train": TRAIN, "evaluate": MERGED, "take up": (0, TRAIN[1] + 3 * TABLE),
        "aggregate": (AGGREGATED * (TABLE + 2 * ITEMS) + AGGREGATED**2 * (6 + 2 * 4 * 4), 0),
    },
    "cofedrec": {
        "train": TRAIN, "evaluate": EVALUATE, "contrast": (0, 8 * TABLE + ITEMS**2),
        "serve": (ITEMS * (6 * DIM + 2 * 3 + CLIENTS), 0),
    },
}  # fmt: skip
"""Numbers that each phase of a round keeps: once, and for each client side by side (FCF has one at
a time, as the settings say), as the method describes them."""


def test_memory_is_planned(method, lab):
    """Bytes, by hand from the shapes; all numbers have 4."""
    size, federation = lab.simulation.layout.classes[0], lab.simulation.federation
    assert (federation.num_clients, federation.num_items) == (CLIENTS, ITEMS)
    assert (size.positives, size.rows) == (POSITIVES, ROWS)
    memory, scratch = lab.simulation.memory, lab.simulation.algorithm.scratch
    assert (memory.clients, memory.server) == tuple(4 * numbers for numbers in HELD[method])
    # where each client's lists begin; the lists, with room for a longest one; what is held out
    flat = sum(len(values) for values in (federation.items, federation.barred))
    room = 2 * max(POSITIVES, int(np.diff(federation.barred_offsets).max()))
    assert memory.data == 4 * (2 * CLIENTS + flat + room + CLIENTS * (2 + 2 * 6))
    for block in (1, 3):
        planned = {phase: once + block * each for phase, (once, each) in SCRATCH[method].items()}
        assert scratch(block) == planned
    assert memory.scratch == {phase: 4 * sum(both) for phase, both in SCRATCH[method].items()}
    largest = max(sum(both) for both in SCRATCH[method].values())
    assert memory.total == memory.data + 4 * (sum(HELD[method]) + largest)


SENT = {
    "fedem": ((1, 4), (1, 0)),
    "local-only": ((0, 0), (0, 0)),
    "central-mf": ((0, 0), (0, 0)),
    "fedmf": ((1, 4), (1, 0)),
    "fcf": ((1, 0), (1, 0)),
    "fedncf": ((1, 4 + 4 * NETWORK), (1, 4 * NETWORK)),
    "pfedrec": ((1, 0), (1, 0)),
    "gpfedrec": ((1, 0), (2, 0)),
    "fedrap": ((1, 0), (1, 0)),
    "fedca": ((1, 4 + 4 * 4 * 4), (1, 0)),
    "cofedrec": ((1, 0), (1, 0)),
}
"""Item tables, and bytes beside them, that a client uploads and downloads (specification, section
1): tables and networks in float32, sample counts in 4 bytes, FedCA's 4 directions."""
TO_ALL = {"cofedrec": 4 * ITEMS}
"""Bytes that every client downloads, also one that did not train: the clusters of the items."""


def test_what_is_sent_is_what_the_specification_says(method, labs):
    simulation = labs(method).simulation
    table = 4 * simulation.federation.num_items * simulation.config.dim
    participants, aggregated = simulation.config.round_sizes(simulation.federation.num_clients)
    clients = aggregated if method in ("fedem", "fedca") else participants
    (up, up_beside), (down, down_beside) = SENT[method]
    to_all = simulation.federation.num_clients * TO_ALL.get(method, 0)
    assert simulation.algorithm.traffic.up == clients * (up * table + up_beside)
    assert simulation.algorithm.traffic.down == clients * (down * table + down_beside) + to_all


CROSSING = {
    # table 40 x 4 x 2 = 320 bytes; 4 of 6 clients are aggregated, each with a count of 4 bytes
    "fedem": (4 * (320 + 4), 4 * 320),
    "local-only": (0, 0),
    "central-mf": (0, 0),
    "fedmf": (6 * (320 + 4), 6 * 320),
    # gradients stay float32: 40 x 4 x 4 = 640
    "fcf": (6 * 640, 6 * 320),
    # so does the network: (8 x 16 + 16) + (16 x 8 + 8) + (8 + 1) = 289 numbers, 1156 bytes
    "fedncf": (6 * (320 + 1156 + 4), 6 * (320 + 1156)),
    "pfedrec": (6 * 320, 6 * 320),
    # and so do the 4 directions of 4 numbers, 64 bytes
    "fedca": (4 * (320 + 64 + 4), 4 * 320),
    # the clusters of 40 items, 160 bytes, go to all 7 clients
    "cofedrec": (6 * 320, 6 * 320 + 7 * 160),
    # all 7 take part; own and common table go down
    "gpfedrec": (7 * 320, 7 * 2 * 320),
    "fedrap": (6 * 320, 6 * 320),
}
"""Bytes up and down of a round with tables in bfloat16: 7 clients, 6 of them train, 40 items."""


def traffic_of(name, **changes):
    federation = small_federation()
    assert (federation.num_clients, federation.num_items) == (7, 40)
    return Simulation(config_of(name, **changes), federation, jax.devices()[:1]).algorithm.traffic


@pytest.mark.parametrize("name", METHODS)
def test_tables_in_half_the_bytes_cost_half_to_send_and_nothing_else_does(name):
    assert traffic_of(name, table_dtype="bfloat16") == CROSSING[name]


def test_clusters_of_items_are_sent_to_all_clients():
    assert traffic_of("cofedrec") == (6 * 640, 6 * 640 + 7 * 160)
    # 3 of 7 train, and still all are told
    assert traffic_of("cofedrec", client_fraction=0.5) == (3 * 640, 3 * 640 + 7 * 160)


def test_who_never_merges_downloads_nothing():
    assert traffic_of("fedem", merging="none") == (4 * (640 + 4), 0)


# --- seeds ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(lab, result):
    again = Lab.__new__(Lab)
    again.__dict__ |= vars(lab)
    again.start = lab.simulation.init()
    assert_same(again.run(), result)
    other = lab.run(key=jax.random.key(1))
    assert differs(other, result)


def test_other_seeds_start_elsewhere_and_other_protocols_do_not(method, lab):
    def start(protocol, seed):
        config = config_of(method, protocol=protocol, seed=seed)
        return Simulation(config, small_federation(protocol), jax.devices()[:1]).init()

    assert_same(start("paper", 0), lab.start)
    assert differs(start("leak-free", 1), lab.start)


def test_rounds_in_one_call_or_in_several_are_the_same(labs):
    lab = labs("fedem")
    assert_same(lab.run(length=3)[0], lab.run()[0])


def test_a_resumed_run_is_an_uninterrupted_one(lab, result):
    state = jax.tree.map(np.asarray, lab.run(rounds=2)[0])
    shardings = jax.tree.map(lambda leaf: leaf.sharding, lab.start)
    state, info, ranks = lab.segment(jax.device_put(state, shardings), 2)
    assert_same(jax.tree.map(np.asarray, (state, info, ranks)), result)


# --- who is changed by what -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_round(lab):
    state, info, _ = jax.tree.map(np.asarray, lab.segment(lab.start, 0))
    return state.clients, jax.tree.map(lambda leaf: leaf[0], info)


def learnt(clients):
    """What the clients learn: all but what waits for them at the server or was handed to them."""
    return [leaf for name, tree in clients._asdict().items()
            if name not in ("slot", "personal") and not isinstance(tree, SparseTables)
            for leaf in jax.tree.leaves(tree)]  # fmt: skip


IDLE = [name for name in METHODS if name not in ("gpfedrec", "central-mf")]
"""Methods in which a client may sit out: GPFedRec needs everybody, and with all data in one place
there are no clients."""


@pytest.mark.parametrize("name", IDLE)
def test_who_sits_out_stays_as_it_was(labs, name):
    lab = labs(name)
    state, info, _ = jax.tree.map(np.asarray, lab.segment(lab.start, 0))
    draws = lab.simulation.draws(lab.simulation.key_draws, jnp.int32(0), lab.simulation.lists)
    (idle,) = np.setdiff1d(np.arange(7), draws.participants())
    assert np.isnan(info.loss[0, idle])
    assert info.epochs[0, idle] == 0
    trained = np.delete(np.arange(7), idle)
    assert np.isfinite(info.loss[0, trained]).all()
    assert (info.epochs[0, trained] > 0).all()
    before, after = own(lab.start.clients), own(state.clients)
    assert_same(*(jax.tree.map(lambda leaf: np.asarray(leaf)[idle], p) for p in (before, after)))
    moved = [differs(*(jax.tree.map(lambda leaf, u=u: np.asarray(leaf)[u], p)
                       for p in (before, after))) for u in trained]  # fmt: skip
    assert all(moved)


@pytest.mark.parametrize("name", ["fedem", "local-only", "fedca"])
def test_rows_without_a_sample_stay_as_they_were(labs, name):
    lab = labs(name)
    state, info, _ = jax.tree.map(np.asarray, lab.segment(lab.start, 0))
    (size,) = lab.simulation.layout.classes

    @jax.jit
    def samples_of(u, lists):
        draws = lab.simulation.draws(lab.simulation.key_draws, jnp.int32(0), lists)
        return draws.samples(u, size.positives, size.barred)

    for u in np.flatnonzero(info.epochs[0]):
        samples = samples_of(u, lab.simulation.lists)
        touched = np.unique(samples.items[: int(samples.count)])
        still = np.setdiff1d(np.arange(lab.simulation.federation.num_items), touched)
        before, after = np.asarray(lab.start.clients.items[u]), state.clients.items[u]
        assert len(still)
        np.testing.assert_array_equal(after[still], before[still])
        assert (after[touched] != before[touched]).any(1).all()


@pytest.mark.parametrize("name", ["fedem", "local-only", "fedmf", "pfedrec", "gpfedrec", "fedca"])
def test_a_client_learns_nothing_from_the_others_before_it_downloads(labs, name):
    """Other interactions of one client change that client alone in the first round."""
    lab = labs(name)
    clients = jax.tree.map(np.asarray, lab.segment(lab.start, 0)[0].clients)
    federation = lab.simulation.federation
    mine = slice(*federation.offsets[2:4])
    new = np.setdiff1d(np.arange(federation.num_items), federation.train_items(2))
    items = np.array(lab.simulation.lists.items)
    items[mine] = np.resize(new, mine.stop - mine.start)
    lists = lab.simulation.lists
    lists = lists._replace(items=jax.device_put(items, lists.items.sharding))
    state, *_ = jax.tree.map(np.asarray, lab.segment(lab.start, 0, lists=lists))
    others = np.delete(np.arange(7), 2)
    assert_same([leaf[others] for leaf in learnt(state.clients)],
                [leaf[others] for leaf in learnt(clients)])  # fmt: skip
    assert differs(*(jax.tree.map(lambda leaf: leaf[2], own(c)) for c in (state.clients, clients)))


class Renumbered:
    """The draws of the same clients under other numbers."""

    def __init__(self, inner: KeyedDraws, old: np.ndarray):
        self.inner, self.new = inner, jnp.asarray(np.argsort(old))
        self.old = jnp.append(jnp.asarray(old), len(old))  # beyond the last client there is nobody

    def participants(self):
        return self.new[self.inner.participants()]

    def samples(self, client, capacity, barred_capacity):
        return self.inner.samples(self.old[client], capacity, barred_capacity)

    def order(self, client, epoch, count):
        return self.inner.order(self.old[client], epoch, count)

    def uploaders(self, participants):
        return self.new[self.inner.uploaders(self.old[participants])]

    def server(self):
        return self.inner.server()

    def signs(self, axes, scores):
        return self.inner.signs(axes, scores)


# --- ways to number the clients and to cut the work -----------------------------------------------

ORDER = np.array([3, 0, 6, 2, 5, 1, 4])


def test_neither_numbers_of_clients_nor_the_cut_of_the_work_change_anything(lab, method, result):
    """Seven clients do not fill two devices, nor blocks of three: the rest is padding. Sums over
    the clients are taken in another order, hence the tolerance.

    Where all data lie in one place, batches are drawn from all of them, in an order that depends on
    the numbers of the clients."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    order = np.arange(7) if method == "central-mf" else ORDER
    lists = lab.simulation.lists

    class Permuted(Simulation):
        def draws(self, key, number, _):
            return Renumbered(lab.simulation.draws(key, number, lists), order)

    federation = permuted(lab.simulation.federation, order)
    other = Lab(config_of(method, block_size=3), 2, federation, Permuted)
    layout = other.simulation.layout
    assert layout.padded == 8
    state, info, ranks = other.run()
    at = layout.place[np.argsort(order)]  # place of each client, by its old number

    def real(tree, axis=0):
        return jax.tree.map(lambda leaf: np.take(leaf, at, axis), tree)

    assert_same(real(ranks), result[2])
    assert_same(real(info, axis=1), result[1], atol=1e-5)
    assert_same(real(own(state.clients)), own(result[0].clients), atol=1e-4)
    if method != "central-mf":  # whose server knows the clients by their places
        assert_same(state.server, result[0].server, atol=1e-4)
    nobody = int(np.flatnonzero(layout.client == layout.padded)[0])
    for start, end in zip(jax.tree.leaves(own(other.start.clients)),
                          jax.tree.leaves(own(state.clients)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(end[nobody], start[nobody])


@pytest.mark.parametrize("classes", [2, 4])
def test_size_classes_change_nothing(labs, classes):
    other = Lab(config_of("local-only", size_classes=classes))
    assert len(other.simulation.layout.classes) == classes
    theirs = labs("local-only").run()
    state, info, ranks = other.run()
    assert_same(ranks, theirs[2])
    assert_same(info, theirs[1], atol=1e-5)
    assert_same(state, theirs[0], atol=1e-4)


# --- learning -------------------------------------------------------------------------------------

LEARN = {
    "dim": 8, "init_scale": 0.1, "lr_embedding": 0.05, "local_epochs": 2, "bce": "logit",
    "batch_size": 256, "num_negative": 4, "threshold": 1e-4, "client_fraction": 1.0, "rounds": 40,
    "size_classes": 1, "aggregation": "avg", "merging": "replace", "aggregation_fraction": 1.0,
    "top_k": 5,
}  # fmt: skip


def found(method, protocol):
    """HR@5 of validation and test items after the last round."""
    config = config_of(method, **LEARN, protocol=protocol)
    simulation = Simulation(config, checkerboard(protocol), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    return np.array([record[part]["hr@5"] for part in ("val", "test")])


def test_fedem_finds_the_withheld_items():
    assert (found("fedem", "leak-free") > 0.7).all()


def test_clients_alone_know_nothing_of_new_items_unless_the_protocol_leaks_them():
    assert (found("local-only", "leak-free") < CHANCE + 0.15).all()
    assert (found("local-only", "paper") > 0.9).all()

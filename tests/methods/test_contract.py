"""What every method keeps to, whatever it computes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import DRAWN, Lab, assert_same, config_of, differs, own
from toy import small_federation

from fedem_jax.config.presets import preset
from fedem_jax.config.registry import METHODS
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.runs.simulation import Simulation

EVERYDAY = pytest.mark.slow_but("fedem", "fedmf", "pfedrec", "local-only", "popularity")
"""Methods that every run of the tests compiles here. Loops over clients stand in for the others."""

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


def test_item_tables_may_be_stored_in_half_the_bytes(halved, method):
    """Popularity has counts and no table."""
    start, traced = halved
    in_bits = any(leaf.dtype == jnp.uint16 for leaf in jax.tree.leaves(start))  # of bfloat16
    assert in_bits == ("table_dtype" not in config_of(method).without_effect())
    after, *_ = traced.out_info
    kind = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(start)]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == kind


def test_a_gpu_has_all_operations_that_a_round_asks_for(halved):
    """Some linear algebra exists on a CPU only, and some of ours has code of its own elsewhere."""
    _, traced = halved
    assert "func.func public @main" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.slow_but("fedem")
def test_rounds_are_traced_once_and_stay_on_the_device(lab, result):
    traced, numbers = lab.traces, [jnp.int32(number) for number in range(3)]
    state = lab.start
    with jax.transfer_guard("disallow"):
        for number in numbers:
            state, *_ = lab.segment(state, number)
    assert lab.traces == traced
    assert_same(jax.tree.map(np.asarray, state), result[0])


# --- seeds ----------------------------------------------------------------------------------------


@EVERYDAY
def test_the_same_seed_gives_the_same_bits(method, lab, result):
    """And another seed gives others, where anything is drawn."""
    again = Lab.__new__(Lab)
    again.__dict__ |= vars(lab)
    again.start = lab.simulation.init()
    assert_same(again.run(), result)
    other = lab.run(key=jax.random.key(1))
    assert differs(other, result) == (method in DRAWN)


@EVERYDAY
def test_other_seeds_start_elsewhere_and_other_protocols_do_not(method, lab):
    def start(protocol, seed):
        config = config_of(method, protocol=protocol, seed=seed)
        return Simulation(config, small_federation(protocol), jax.devices()[:1]).init()

    assert_same(start("paper", 0), lab.start)
    assert differs(start("leak-free", 1), lab.start) == (method in DRAWN)


def test_rounds_in_one_call_or_in_several_are_the_same(labs):
    lab = labs("fedem")
    assert_same(lab.run(length=3)[0], lab.run()[0])


@pytest.mark.slow_but("fedem")
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


IDLE = [name for name, (kind, _) in METHODS.items() if name != "gpfedrec" and not kind.central]
"""Methods in which a client may sit out: GPFedRec needs everybody, and with all data in one place
there are no clients."""


@EVERYDAY
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


@pytest.mark.slow_but("fedem", "local-only")
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


@EVERYDAY
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

"""What every method keeps to, whatever it computes, and whatever way the work is cut."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import small_federation

from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.methods import METHODS
from fedem_jax.protocol import preset
from fedem_jax.settings import FedEM
from fedem_jax.train import Trial

BASE = FedEM(
    dim=4, local_epochs=3, batch_size=16, num_negative=2, lr_embedding=0.03, lr_adapter=0.03,
    threshold=0.02, bce="logit", client_fraction=0.9, aggregation_fraction=0.7, block_size=1,
    size_classes=1,
)  # fmt: skip


class Lab:
    """Compiled rounds of a method, from any state, with any key, data and numbers."""

    def __init__(self, config, devices=1, federation=None):
        federation = federation or small_federation(config.protocol)
        self.trial = Trial(config, federation, jax.devices()[:devices])
        self.start = self.trial.init()
        self.traces, method = 0, self.trial.algorithm

        def counted(*args):
            self.traces += 1
            return method.round(*args)

        self.trial.algorithm = method._replace(round=counted)
        self.program = jax.jit(self.trial._rounds, static_argnums=0)
        self.rest = (self.trial.key_draws, self.trial.lists, self.trial.held_out, method.hyper)

    def segment(self, state, number, length=1, **changed):
        """State, what each round reported, and ranks, after some rounds."""
        names = ("key", "lists", "held_out", "hyper")
        rest = {**dict(zip(names, self.rest, strict=True)), **changed}
        with jax.default_matmul_precision("highest"):
            return self.program(length, state, jnp.int32(number), *(rest[name] for name in names))

    def run(self, rounds=3, length=1, **changed):
        """The last segment of a run."""
        state = self.start
        for number in range(0, rounds, length):
            state, info, ranks = self.segment(state, number, length, **changed)
        return jax.tree.map(np.asarray, (state, info, ranks))


@pytest.fixture(scope="module")
def labs():
    """One client after the other, in arrays of one size: the laboratory of each method."""
    return cache(lambda method: Lab(dataclasses.replace(BASE, method=method)))


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def lab(labs, method):
    return labs(method)


@pytest.fixture(scope="module")
def result(lab):
    return lab.run()


def assert_same(ours, theirs, **tolerance):
    """Equal trees; to the bit without a tolerance."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if tolerance:
            np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))
        else:
            np.testing.assert_array_equal(x, y)


def differs(ours, theirs):
    """Whether a floating-point leaf of a tree changed at all."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)


# --- shapes, traces, transfers --------------------------------------------------------------------


def test_a_round_keeps_shapes_and_types(lab):
    after, info, ranks = jax.eval_shape(partial(lab.trial._rounds, 2), lab.start, 0, *lab.rest)
    before = jax.eval_shape(lambda state: state, lab.start)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert {leaf.shape for leaf in info} == {(2, 7)}
    assert all(len(leaf) == 7 for leaf in ranks)


def test_item_tables_may_be_stored_in_half_the_bytes(method):
    config = dataclasses.replace(BASE, method=method, table_dtype="bfloat16")
    trial = Trial(config, small_federation(), jax.devices()[:1])
    start = jax.eval_shape(trial.algorithm.init, trial.key_init)
    assert start.clients.items.dtype == jnp.bfloat16
    rest = (trial.key_draws, trial.lists, trial.held_out, trial.algorithm.hyper)
    after, *_ = jax.eval_shape(partial(trial._rounds, 1), start, 0, *rest)
    kind = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(start)]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == kind


def test_rounds_are_traced_once_and_stay_on_the_device(lab, result):
    traced, numbers = lab.traces, [jnp.int32(number) for number in range(3)]
    state = lab.start
    with jax.transfer_guard("disallow"):
        for number in numbers:
            state, *_ = lab.segment(state, number)
    assert lab.traces == traced
    assert_same(jax.tree.map(np.asarray, state), result[0])


# --- seeds ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(lab, result):
    again = Lab.__new__(Lab)
    again.__dict__ |= vars(lab)
    again.start = lab.trial.init()
    assert_same(again.run(), result)
    other = lab.run(key=jax.random.key(1))
    assert differs(other[0], result[0])


def test_other_seeds_start_elsewhere_and_other_protocols_do_not(method, lab):
    def start(protocol, seed):
        config = dataclasses.replace(BASE, method=method, protocol=protocol, seed=seed)
        return Trial(config, small_federation(protocol), jax.devices()[:1]).init().clients

    base = lab.start.clients
    assert_same(start("paper", 0), base)
    assert differs(start("leak-free", 1), base)
    everybody = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), base)
    assert_same(base, everybody)


def test_rounds_in_one_call_or_in_several_are_the_same(labs):
    lab = labs("fedem")
    assert_same(lab.run(length=3)[0], lab.run()[0])


# --- who is changed by what -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_round(lab):
    state, info, _ = jax.tree.map(np.asarray, lab.segment(lab.start, 0))
    return state.clients, jax.tree.map(lambda leaf: leaf[0], info)


def learnt(clients):
    """What the clients learn: all but the row of the server's table that waits for them."""
    return [leaf for name, tree in clients._asdict().items() if name != "slot"
            for leaf in jax.tree.leaves(tree)]  # fmt: skip


def test_who_sits_out_stays_as_it_was(lab, first_round):
    clients, info = first_round
    draws = lab.trial.draws(lab.trial.key_draws, jnp.int32(0), lab.trial.lists)
    (idle,) = np.setdiff1d(np.arange(7), draws.participants())
    assert np.isnan(info.loss[idle])
    assert info.epochs[idle] == 0
    trained = np.delete(np.arange(7), idle)
    assert np.isfinite(info.loss[trained]).all()
    assert (info.epochs[trained] > 0).all()
    before, after = learnt(lab.start.clients), learnt(clients)
    assert_same([leaf[idle] for leaf in after], [leaf[idle] for leaf in before])
    moved = clients.items[trained] != np.asarray(lab.start.clients.items)[trained]
    assert moved.any((1, 2)).all()


def test_rows_without_a_sample_stay_as_they_were(lab, first_round):
    clients, info = first_round
    (size,) = lab.trial.layout.classes

    @jax.jit
    def samples_of(u, lists):
        draws = lab.trial.draws(lab.trial.key_draws, jnp.int32(0), lists)
        return draws.samples(u, size.positives, size.barred)

    for u in np.flatnonzero(info.epochs):
        samples = samples_of(u, lab.trial.lists)
        touched = np.unique(samples.items[: int(samples.count)])
        still = np.setdiff1d(np.arange(lab.trial.federation.num_items), touched)
        before, after = np.asarray(lab.start.clients.items[u]), clients.items[u]
        assert len(still)
        np.testing.assert_array_equal(after[still], before[still])
        assert (after[touched] != before[touched]).any(1).all()


def test_a_client_learns_nothing_from_the_others_before_it_downloads(lab, first_round):
    """Other interactions of one client change that client alone in the first round."""
    federation = lab.trial.federation
    mine = slice(*federation.offsets[2:4])
    new = np.setdiff1d(np.arange(federation.num_items), federation.train_items(2))
    items = np.array(lab.trial.lists.items)
    items[mine] = np.resize(new, mine.stop - mine.start)
    lists = lab.trial.lists
    lists = lists._replace(items=jax.device_put(items, lists.items.sharding))
    state, *_ = jax.tree.map(np.asarray, lab.segment(lab.start, 0, lists=lists))
    others = np.delete(np.arange(7), 2)
    clients, _ = first_round
    assert_same([leaf[others] for leaf in learnt(state.clients)],
                [leaf[others] for leaf in learnt(clients)])  # fmt: skip
    assert (state.clients.items[2] != clients.items[2]).any()


# --- ways to cut the work -------------------------------------------------------------------------

CUTS = [("fedem", 2, 3, 1), ("local-only", 2, 3, 4), ("local-only", 1, 8, 1)]
"""Method, devices, clients in a block, size classes. All methods share the code that makes the cut,
and FedEM takes long to compile."""


@pytest.mark.parametrize(("name", "devices", "block", "classes"), CUTS)
def test_the_cut_of_the_work_changes_nothing(labs, name, devices, block, classes):
    """Seven clients do not fill two devices, nor blocks of three: the rest is padding."""
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    config = dataclasses.replace(BASE, method=name, block_size=block, size_classes=classes)
    other, result = Lab(config, devices), labs(name).run()
    assert other.trial.layout.padded == 7 + (devices - 1)
    assert len(other.trial.layout.classes) == classes

    def real(tree, axis=0):
        return jax.tree.map(lambda leaf: np.take(leaf, range(7), axis), tree)

    state, info, ranks = other.run()
    assert_same(real(ranks), result[2])
    assert_same(real(info, axis=1), result[1], atol=1e-5)
    assert_same(real(state.clients), result[0].clients, atol=1e-4)
    assert_same(state.server, result[0].server, atol=1e-4)
    for start, end in zip(learnt(other.start.clients), learnt(state.clients), strict=True):
        np.testing.assert_array_equal(end[7:], start[7:])


# --- learning -------------------------------------------------------------------------------------

LEARN = FedEM(
    dim=8, init_scale=0.1, lr_embedding=0.05, local_epochs=2, bce="logit", rounds=40,
    size_classes=1, aggregation="avg", merging="replace", aggregation_fraction=1.0, top_k=5,
)  # fmt: skip
CHANCE = 5 / 21
"""HR@5 of a guess among 20 other items."""


def checkerboard(protocol):
    """Even clients like even items, odd clients odd ones: 18 of 24 each."""
    rng = np.random.default_rng(0)
    items = np.array([2 * rng.permutation(24)[:18] + client % 2 for client in range(60)])
    user, time = np.indices(items.shape)
    rules = preset(protocol, num_candidates=20, candidates="shared")
    interactions = Interactions.of(user.ravel(), items.ravel(), time=time.ravel())
    return split(interactions, rules, seed=0, name="checkerboard")


def found(method, protocol):
    """HR@5 of validation and test items after the last round."""
    config = dataclasses.replace(LEARN, method=method, protocol=protocol)
    trial = Trial(config, checkerboard(protocol), jax.devices()[:1])
    start = trial.init()
    _, info, ranks = trial.segment(start, config.rounds)(start, 0)
    record = trial.record(config.rounds, info, ranks)
    return np.array([record[part]["hr@5"] for part in ("val", "test")])


def test_fedem_finds_the_withheld_items():
    assert (found("fedem", "leak-free") > 0.7).all()


def test_clients_alone_know_nothing_of_new_items_unless_the_protocol_leaks_them():
    assert (found("local-only", "leak-free") < CHANCE + 0.15).all()
    assert (found("local-only", "paper") > 0.9).all()

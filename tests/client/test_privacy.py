"""Noise and bound of uploads, client by client, and that nothing but an upload reaches another
client."""

import dataclasses
import math
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jaxtyping import Array, Int, Key
from toy import small_federation

from fedem_jax.client.privacy import clipped, epsilon, noise, noisy_uploads
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF, FedNCF, PFedRec
from fedem_jax.core.algorithm import hyper_of
from fedem_jax.core.draws import Samples
from fedem_jax.core.linalg import canonical_sign
from fedem_jax.core.round import Sum
from fedem_jax.core.table_storage import from_storage, to_storage
from fedem_jax.runs.simulation import Simulation
from fedem_jax.server import averaging

fedem = import_module("fedem_jax.methods.fedem")  # the package names the method by its function
SMALL = {
    "dim": 4, "local_epochs": 2, "batch_size": 16, "num_negative": 2, "bce": "logit",
    "size_classes": 1, "block_size": 3, "client_fraction": 0.9, "init_scale": 0.5,
}  # fmt: skip
GENTLE = {"lr_network": 0.05, "lr_item_factor": 1.0}
CLIENTS, KEY = 7, jax.random.key(5)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""How to compile what runs once."""


def bound(config, devices=1):
    return Simulation(config, small_federation("leak-free", CLIENTS), jax.devices()[:devices])


class Given(NamedTuple):
    """Draws of a round that need no random numbers on the device, which take long to compile. Item
    i is a positive of whoever samples it if i is a multiple of 3."""

    items: Int[Array, "C+1 S"]
    counts: Int[Array, " C+1"]
    taking_part: Int[Array, " P"]
    chosen: Int[Array, " A"]
    key: Key[Array, ""] | None

    @classmethod
    def of(cls, simulation, number=0, key=None):
        (size,) = simulation.layout.classes
        counts = 3 * np.append(np.diff(simulation.federation.offsets), 0)
        rng = np.random.default_rng(number)
        shape = (CLIENTS + 1, 3 * size.positives)
        items = rng.integers(simulation.federation.num_items, size=shape)
        num_participants, num_served = simulation.config.round_sizes(CLIENTS)
        last = np.arange(CLIENTS)[-num_participants:]
        numbers = (items, counts, last, last[::-1][:num_served])
        return cls(*(jnp.asarray(part, jnp.int32) for part in numbers), key)

    def participants(self):
        return self.taking_part

    def samples(self, client, capacity, barred_capacity):
        items = self.items[client]
        return Samples(items, (items % 3 == 0).astype(jnp.float32), self.counts[client])

    def order(self, client, epoch, count):
        return lambda position: position

    def epochs(self, client, most, stragglers):
        raise NotImplementedError

    def uploaders(self, participants):
        return self.chosen

    def server(self):
        if self.key is None:
            raise NotImplementedError
        return self.key

    def signs(self, axes, scores):
        return canonical_sign(axes)


# --- the guarantee --------------------------------------------------------------------------------


def test_epsilon_is_sensitivity_over_scale_round_after_round():
    assert epsilon(clip=1.0, scale=2.0) == 1.0  # two uploads within 1 of a table are 2 apart
    assert epsilon(clip=0.5, scale=0.1, rounds=30) == pytest.approx(300)


def test_there_is_no_guarantee_without_a_bound_or_without_noise():
    assert epsilon(clip=0.0, scale=1.0) == math.inf
    assert epsilon(clip=1.0, scale=0.0) == math.inf


def test_the_table_of_the_documentation_is_computed():
    text = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    lines = [line for line in text.splitlines() if re.match(r"\| +[0-9]", line)]
    rows = [line.strip("|").split("|") for line in lines]
    assert len(rows) >= 4
    for row in rows:
        clip, scale, *epsilons = (float(cell.replace(",", "")) for cell in row)
        for rounds, shown in zip((1, 10, 100), epsilons, strict=True):
            assert epsilon(clip, scale, rounds) == pytest.approx(shown)


# --- noise ----------------------------------------------------------------------------------------


def server_keys():
    """Of two rounds."""
    simulation = bound(PFedRec(**SMALL, **GENTLE))
    rounds = (jnp.int32(number) for number in (0, 1))
    return [
        simulation.draws(simulation.key_draws, number, simulation.lists).server()
        for number in rounds
    ]


def noise_of(kind):
    """Noise of two rounds on 5 clients' tables: [2 5 300 8]."""
    items = jnp.arange(300)
    drawn = jax.jit(jax.vmap(lambda key, client: noise(key, client, items, 8, kind), (None, 0)))
    return np.stack([drawn(key, jnp.arange(5)) for key in server_keys()])


@pytest.fixture(scope="module")
def noises():
    return noise_of("laplace")


def test_noise_is_laplace_of_scale_1(noises):
    n = noises.size
    assert abs(noises.mean()) < 5 * math.sqrt(2 / n)
    assert abs(np.abs(noises).mean() - 1) < 5 / math.sqrt(n)
    for size in (0.5, 1, 3):
        tail = math.exp(-size)
        share = (np.abs(noises) > size).mean()
        assert abs(share - tail) < 5 * math.sqrt(tail * (1 - tail) / n)


def test_the_other_noise_is_normal_of_deviation_1():
    drawn = noise_of("gaussian")
    n = drawn.size
    for power, moment in enumerate((0, 1, 0, 3, 0, 15), 1):
        deviation = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / n)
        assert abs((drawn**power).mean() - moment) < 4 * deviation
    for size in (0.5, 1, 2, 3):
        tail = math.erfc(size / math.sqrt(2))
        share = (np.abs(drawn) > size).mean()
        assert abs(share - tail) < 4 * math.sqrt(tail * (1 - tail) / n)
    for axis in range(4):
        rows = np.moveaxis(drawn, axis, 0).reshape(drawn.shape[axis], -1)[:8]
        correlation = np.corrcoef(rows) - np.eye(len(rows))
        assert np.abs(correlation).max() < 5 / math.sqrt(rows.shape[1])


@pytest.mark.parametrize("axis", range(4), ids=["rounds", "clients", "items", "coordinates"])
def test_noise_is_independent_over(noises, axis):
    rows = np.moveaxis(noises, axis, 0).reshape(noises.shape[axis], -1)[:8]
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / math.sqrt(rows.shape[1])


def test_noise_of_some_items_is_that_of_the_whole_table(noises):
    some = jnp.array([7, 2, 290])
    drawn = jax.jit(lambda key: noise(key, jnp.int32(4), some, 8))(server_keys()[1])
    np.testing.assert_array_equal(drawn, noises[1, 4, some])


# --- bound ----------------------------------------------------------------------------------------

BOUNDED = FedMF(ldp_clip=1.0)


@pytest.mark.parametrize("clip", [0.1, 1.0, 29.0])
def test_what_is_beyond_the_bound_is_scaled_down_to_it(clip):
    tree = (jnp.full((3, 4), -2.0), {"kernel": jnp.arange(4.0)})  # |.|_1 = 24 + 6
    table, rest = clipped(BOUNDED, tree, jnp.float32(clip))
    np.testing.assert_allclose(table, -2.0 * clip / 30, rtol=1e-6)
    np.testing.assert_allclose(rest["kernel"], np.arange(4) * clip / 30, rtol=1e-6)
    assert np.abs(table).sum() + np.abs(rest["kernel"]).sum() == pytest.approx(clip, rel=1e-6)


@pytest.mark.parametrize("clip", [0.1, 1.0, 7.8])
def test_for_normal_noise_the_bound_is_of_the_other_norm(clip):
    tree = (jnp.full((3, 4), -2.0), {"kernel": jnp.arange(4.0)})  # |.|_2 = sqrt(48 + 14)
    config = dataclasses.replace(BOUNDED, ldp_noise="gaussian")
    sent = clipped(config, tree, jnp.float32(clip))
    factor = clip / np.sqrt(62)
    np.testing.assert_allclose(sent[0], -2.0 * factor, rtol=1e-6)
    np.testing.assert_allclose(sent[1]["kernel"], np.arange(4) * factor, rtol=1e-6)
    within = clipped(config, tree, jnp.float32(7.9))
    np.testing.assert_array_equal(within[0], tree[0])


@pytest.mark.parametrize("clip", [24.0, 1e6, 0.0])
def test_what_is_within_the_bound_stays_as_it_is(clip):
    """To the bit; 0 is no bound."""
    move = jnp.linspace(-1, 1, 47)  # |.|_1 < 24
    np.testing.assert_array_equal(clipped(BOUNDED, move, jnp.float32(clip)), move)
    still = jnp.zeros(5)
    np.testing.assert_array_equal(clipped(BOUNDED, still, jnp.float32(clip)), still)


def test_where_both_are_off_their_numbers_are_never_looked_at():
    """Nor is the key: the program is that of a method without them."""
    for config in (FedEM(**SMALL), FedMF(**SMALL), FedNCF(**SMALL), PFedRec(**SMALL, **GENTLE)):
        simulation = bound(config)
        hyper = simulation.algorithm.hyper._replace(ldp_scale=None, ldp_clip=None)
        state = jax.eval_shape(
            simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
        )
        draws = Given.of(simulation, 0)
        after, _ = jax.eval_shape(
            lambda state, t=simulation, h=hyper, d=draws: t.algorithm.round(d, state, h), state
        )
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert not {"noise", "upload"} & set(simulation.algorithm.scratch(1))


def test_tables_of_half_the_bytes_are_sent_in_half_the_bytes():
    config = FedEM(**SMALL, ldp_scale=0.1, ldp_clip=1.0, table_dtype="bfloat16")
    tables = to_storage(jnp.ones((3, 5, 2)), jnp.dtype(jnp.uint16))
    hyper, draws = hyper_of(fedem.Hyper, config), Given.of(bound(config), key=KEY)
    uploads, known = Sum(tables, ()), Sum(tables[0], ())
    sent = noisy_uploads(config, draws, jnp.arange(3), uploads, known, hyper).items
    assert sent.dtype == tables.dtype
    moved = np.asarray(from_storage(sent) - 1)
    assert 0.02 < np.abs(moved).mean() < 0.4


# --- uploads against a loop over clients ----------------------------------------------------------


def drawn_noise(key, client, shapes, draw=jax.random.laplace):
    """A client's noise of scale 1: on its table, row by row, and on what else it sends."""
    own, (num_items, dim) = jax.random.fold_in(key, client), shapes[0]
    rows = [draw(jax.random.fold_in(own, item), (dim,)) for item in range(num_items)]
    beside = [
        draw(jax.random.fold_in(own, num_items + n), shape) for n, shape in enumerate(shapes[1:])
    ]
    return [np.float64(jnp.stack(rows)), *map(np.float64, beside)]


def norm_of(move, power=1):
    return sum((np.abs(part) ** power).sum() for part in move) ** (1 / power)


def bounded(move, clip, power=1):
    return [part * min(1, clip / norm_of(move, power)) for part in move] if clip else move


def compiled_round(simulation):
    """`(**numbers) -> state` after the first round; the numbers are arguments of one program."""

    @partial(jax.jit, compiler_options=QUICK)
    def program(state, draws, hyper):
        return simulation.algorithm.round(draws, state, hyper)[0]

    start, draws, hyper = (
        simulation.init(),
        Given.of(simulation, key=KEY),
        simulation.algorithm.hyper,
    )

    def after(**numbers):
        changed = hyper._replace(**{name: jnp.float32(numbers[name]) for name in numbers})
        return jax.tree.map(np.asarray, program(start, draws, changed))

    return start, draws, after


def shared(server):
    """Item table and network of a server that averages them, in float64."""
    table, network = (server.table, server.network) if "network" in server._fields else (server, ())
    return [np.float64(leaf) for leaf in (table.items, *jax.tree.leaves(network))]


def own_model(simulation, clients, client, common):
    """What a client keeps of its own after a round, dense: the same arrays as `shared`."""
    layout, own = simulation.layout, [part.copy() for part in common]
    kept = jax.tree.map(jnp.asarray, clients.items)
    place, each = layout.place[client], len(kept.items) // layout.mesh.size
    device = slice(place // layout.shard * each, (place // layout.shard + 1) * each)
    kept = kept._replace(items=kept.items[device], table=kept.table[device])
    (size,) = layout.classes
    items, table = (np.asarray(part) for part in kept.gather(jnp.int32(place), size.rows))
    used = items < len(common[0])
    own[0][items[used]] = table[used]
    if len(common) > 1:
        leaves = jax.tree.leaves(clients.private["network"])
        own[1:] = [np.float64(leaf[place]) for leaf in leaves]
    return own


NOISY = {"ldp_scale": 0.3, "ldp_clip": 1.0}
AVERAGED = {
    "fedmf": FedMF(**SMALL, **NOISY, evaluated="local", lr_embedding=0.03),
    "fedmf, gaussian": FedMF(
        **SMALL, **NOISY, ldp_noise="gaussian", evaluated="local", lr_embedding=0.03
    ),
    "fedncf": FedNCF(**SMALL, **NOISY, evaluated="local", lr_embedding=0.03, network_widths=(3,)),
    "pfedrec": PFedRec(**SMALL, **NOISY, **GENTLE),
}


@pytest.mark.parametrize("method", AVERAGED)
@pytest.mark.slow_but("fedmf", "fedmf, gaussian")
def test_the_sum_is_that_of_a_loop_over_clients(method):
    """Seven clients in blocks of three on two devices, of whom one sits out."""
    simulation = bound(AVERAGED[method], devices=2)
    before, draws, after_round = compiled_round(simulation)
    common, power, draw = shared(before.server), 1, jax.random.laplace
    if simulation.config.ldp_noise == "gaussian":
        power, draw = 2, jax.random.normal
    counts = np.diff(simulation.federation.offsets)
    taking_part = [int(client) for client in draws.taking_part]
    assert len(taking_part) == CLIENTS - 1
    weight = {u: 1.0 if method == "pfedrec" else float(counts[u]) for u in taking_part}
    drawn = {u: drawn_noise(KEY, u, [p.shape for p in common], draw) for u in taking_part}

    clients = after_round().clients
    moves = {
        u: [
            own - old
            for own, old in zip(own_model(simulation, clients, u, common), common, strict=True)
        ]
        for u in taking_part
    }
    norms = sorted(norm_of(move, power) for move in moves.values())
    for clip, scale in ((norms[2] * 1.01, 0.3), (norms[0] / 2, 0.0), (0.0, 0.0)):
        after = after_round(ldp_clip=clip, ldp_scale=scale)
        expected = [part.copy() for part in common]
        for u, move in moves.items():
            share = weight[u] / sum(weight.values())
            sent = bounded(move, clip, power)
            for total, part, own in zip(expected, sent, drawn[u], strict=True):
                total += share * (part + scale * own)
        for ours, theirs in zip(shared(after.server), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)
        for ours, clean in zip(
            jax.tree.leaves(after.clients), jax.tree.leaves(clients), strict=True
        ):
            np.testing.assert_array_equal(ours, clean)


def test_the_tables_of_fedem_are_those_of_a_loop_over_clients():
    """They are bounded around the table that everybody started from, and clients keep their own."""
    config = FedEM(
        **SMALL, **NOISY, aggregation_fraction=0.7, aggregation="avg", lr_embedding=0.03,
        merging="replace",
    )  # fmt: skip
    simulation = bound(config, devices=2)
    before, draws, after_round = compiled_round(simulation)
    start = np.float64(before.server.start.items)
    counts = np.diff(simulation.federation.offsets)
    chosen = [int(client) for client in draws.chosen]
    assert 2 < len(chosen) < CLIENTS - 1
    clients = after_round().clients
    moves = {u: np.float64(clients.items[simulation.layout.place[u]]) - start for u in chosen}
    norms = sorted(np.abs(move).sum() for move in moves.values())
    for clip, scale in ((norms[1] * 1.01, 0.3), (0.0, 0.0)):
        after = after_round(ldp_clip=clip, ldp_scale=scale)
        expected = start.copy()
        for u, move in moves.items():
            (sent,), (laplace,) = (
                bounded([move], clip),
                drawn_noise(KEY, u, [start.shape]),
            )
            expected += counts[u] / counts[chosen].sum() * (sent + scale * laplace)
        np.testing.assert_allclose(after.server.items[0], expected, rtol=1e-5, atol=2e-6)
        np.testing.assert_array_equal(after.server.start.items, before.server.start.items)
        np.testing.assert_array_equal(after.clients.items, clients.items)


# --- what reaches another client ------------------------------------------------------------------

EVERYBODY = SMALL | {"client_fraction": 1.0}
WATCHED_CLIENT = CLIENTS - 1  # the first of the uploads
WATCHED = {
    "fedem": (
        FedEM(
            **EVERYBODY,
            aggregation_fraction=1.0,
            similarity="cos",
            lr_embedding=0.03,
            adapter_widths=(2,),
        ),
        fedem,
        "aggregated_tables",
    ),
    "fedmf": (FedMF(**EVERYBODY, lr_embedding=0.03), averaging, "moved"),
    "pfedrec": (PFedRec(**EVERYBODY, **GENTLE, evaluated="global"), averaging, "moved"),
}
"""The method, and the module and the name of its server's step."""


def with_uploads(serve, extra):
    """The server's step on uploaded item tables that are given, `extra` added to the first: nothing
    that happened before changes them. All else that it is handed is left as it is."""

    def fixed(argument):
        if not isinstance(argument, (fedem.Upload, averaging.Sum)):
            return argument
        items = lax.stop_gradient(argument.items)
        first = items.at[0] if isinstance(argument, fedem.Upload) else items.at[:]
        return argument._replace(items=first.add(extra))

    return lambda *arguments: serve(*map(fixed, arguments))


@pytest.mark.parametrize("method", WATCHED)
@pytest.mark.slow_but("fedmf")
def test_nothing_of_a_client_but_its_upload_reaches_the_others(method, monkeypatch):
    """Derivatives of the state of everybody and of their scores, after a round in blocks of three
    clients. At given uploads, none of the others' has one by what a client keeps; by its upload
    they have. (Forward mode: the loops of the local training have no other.)"""
    config, module, name = WATCHED[method]
    simulation, serve = bound(config), getattr(module, name)

    def reached(state, draws, kept, sent):
        """A round from a state in which the watched client's numbers are moved by `kept` and its
        uploaded table by `sent`, along random directions."""

        def move(leaf, direction):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            return leaf.at[WATCHED_CLIENT].add(kept * direction)

        clients = jax.tree.map(move, state.clients, directions)
        monkeypatch.setattr(module, name, with_uploads(serve, sent * table))
        after, _ = simulation.algorithm.round(
            draws, state._replace(clients=clients), simulation.algorithm.hyper
        )
        return after, simulation.algorithm.score(
            after, jnp.arange(CLIENTS), simulation.algorithm.hyper
        )

    @partial(jax.jit, compiler_options=QUICK)
    def derivative(state, draws, by_kept, by_sent):
        at = (jnp.float32(0), jnp.float32(0))
        return jax.jvp(partial(reached, state, draws), at, (by_kept, by_sent))

    def by(state, number, kept, sent):
        slopes = derivative(
            state, Given.of(simulation, number), jnp.float32(kept), jnp.float32(sent)
        )
        return jax.tree.map(np.asarray, slopes)

    monkeypatch.setattr(optax, "adam", optax.sgd)
    rng, start = np.random.default_rng(0), jax.tree.map(np.asarray, simulation.init())
    directions = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=leaf.shape[1:])), start.clients
    )
    table = jnp.float32(rng.normal(size=(simulation.federation.num_items, config.dim)))
    (state, _), _ = by(start, 0, 0, 0)  # so that some wait to merge
    others = np.delete(np.arange(CLIENTS), WATCHED_CLIENT)

    _, (after, scores) = by(state, 1, 1, 0)
    floats = [leaf for leaf in jax.tree.leaves(after.clients) if leaf.dtype == np.float32]
    assert all(np.abs(leaf[WATCHED_CLIENT]).max() > 1e-3 for leaf in floats)
    assert np.abs(scores[WATCHED_CLIENT]).max() > 1e-3
    for leaf in [leaf[others] for leaf in floats] + [
        scores[others],
        *jax.tree.leaves(after.server),
    ]:
        np.testing.assert_array_equal(leaf, 0)

    _, (after, scores) = by(state, 1, 0, 1)
    assert np.isfinite(scores).all()
    assert (np.abs(scores).max(axis=1) > 1e-6).all()

"""Numbers that cease to be finite: whose they are, who is left out, what is said."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import Lab, assert_same, config_of, differs, own
from toy import Toy, small_federation, toy

from fedem_jax.config.registry import METHODS, Method
from fedem_jax.core.algorithm import State
from fedem_jax.core.finite import finite_rows, finite_state
from fedem_jax.errors import UserError
from fedem_jax.runs.memory import advice_when_exhausted
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run


def test_every_kind_of_number_is_looked_at():
    def tree(**changes):
        sound = {
            "table": jnp.zeros((3, 2, 2)), "slot": jnp.arange(3), "there": jnp.ones(3, bool),
            "vector": jnp.zeros(3),
        }  # fmt: skip
        return sound | changes

    np.testing.assert_array_equal(finite_rows(tree(), 3), [True, True, True])
    table = jnp.zeros((3, 2, 2)).at[2, 1, 0].set(jnp.nan)
    lost = tree(table=table, vector=jnp.array([1.0, -jnp.inf, 1.0]))
    np.testing.assert_array_equal(finite_rows(lost, 3), [True, False, False])
    np.testing.assert_array_equal(finite_state(State(lost, jnp.zeros(4)), 3), [True, False, False])
    np.testing.assert_array_equal(finite_state(State(tree(), jnp.array(jnp.nan)), 3), [False] * 3)


def test_parameters_that_are_not_finite_end_the_run_though_scores_are(monkeypatch):
    bound = toy(np.zeros((2, 7, small_federation().num_items)))

    def failing(config, layout):
        algorithm = bound(config, layout)

        def init(key, hyper):
            state = algorithm.init(key, hyper)
            unused = jnp.zeros(layout.padded).at[layout.place[3]].set(jnp.inf)
            return state._replace(clients=state.clients | {"unused": unused})

        return algorithm._replace(init=init)

    monkeypatch.setitem(METHODS, "toy", Method(Toy, failing))
    with pytest.raises(UserError) as error:
        run(Toy(rounds=1, top_k=5), small_federation())
    assert "round 1: client 3 (user " in str(error.value)
    assert "parameters or scores that are not finite (they saturate float32)" in str(error.value)
    assert "init_scale (now 1)" in str(error.value)


# --- skip-client ----------------------------------------------------------------------------------

NOBODY_TO_SKIP = ("fcf", *(name for name, (kind, _) in METHODS.items() if kind.central))
SKIPPING = [name for name in METHODS if name not in NOBODY_TO_SKIP]
EVERYDAY = ("local-only", "fedrap")
EACH = [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow)
        for name in SKIPPING]  # fmt: skip


@cache
def lab(name):
    return Lab(config_of(name, on_nonfinite="skip-client", client_fraction=1.0))


def lost(lab, *clients):
    """The start, in which training leads some clients to numbers that are not finite."""

    def poisoned(leaf):
        return leaf.at[jnp.asarray(clients, int)].set(jnp.nan)

    field = "private" if hasattr(lab.start.clients, "private") else "user"
    private = jax.tree.map(poisoned, getattr(lab.start.clients, field))
    return lab.start._replace(clients=lab.start.clients._replace(**{field: private}))


@pytest.mark.parametrize("name", EACH)
@pytest.mark.slow_but("local-only")
def test_a_client_that_explodes_is_left_out_alone(name):
    """It stays as it was; the others train as ever; what the server makes of it is finite."""
    here = lab(name)
    whole, info, _ = jax.tree.map(np.asarray, here.segment(here.start, 0))
    assert not info.skipped.any()
    state, info, _ = jax.tree.map(np.asarray, here.segment(lost(here, 2), 0))
    np.testing.assert_array_equal(np.flatnonzero(info.skipped[0]), [2])
    assert np.isnan(info.loss[0, 2])
    assert info.epochs[0, 2] == 0
    others = np.delete(np.arange(7), 2)
    for tree in (state, whole):
        assert differs(own(tree.clients), own(here.start.clients))
    assert_same(*(jax.tree.map(lambda leaf: leaf[others], own(tree.clients))
                  for tree in (state, whole)))  # fmt: skip
    replaced = ("fedmf", "fedncf", "pfedrec", "cofedrec")  # by a download, for all or for a group
    if hasattr(state.clients, "items") and name not in replaced:
        np.testing.assert_array_equal(
            state.clients.items[2], np.asarray(here.start.clients.items)[2]
        )
    server = State((), state.server)
    assert finite_state(server, 1).all()


@pytest.mark.parametrize("name", [each for each in EACH if each != "local-only" and (
    each == "fedrap" or each.values[0] in ("fedmf", "fedncf", "pfedrec"))])  # fmt: skip
def test_who_is_left_out_sends_back_what_it_was_given(name):
    """So the server's table moves by the sum of what the others moved it by: what the first three
    move and what the rest move make up what all move."""
    here = lab(name)

    def table(*clients):
        state, *_ = here.segment(lost(here, *clients), 0)
        leaves = jax.tree.leaves(state.server)
        return [np.asarray(leaf, np.float64) for leaf in leaves]

    start = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(here.start.server)]
    for zero, all_, first, rest in zip(
        start, table(), table(3, 4, 5, 6), table(0, 1, 2), strict=True
    ):
        if all_.ndim:
            np.testing.assert_allclose((first - zero) + (rest - zero), all_ - zero, atol=1e-5)


def test_without_the_switch_nothing_is_looked_for():
    simulation = Simulation(config_of("local-only"), small_federation(), jax.devices()[:1])
    rest = (simulation.key_draws, simulation.lists, simulation.held_out, simulation.algorithm.hyper)
    start = jax.eval_shape(
        simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
    )
    _, info, _ = jax.eval_shape(lambda state: simulation._rounds(1, state, 0, *rest), start)
    assert info.skipped is None


def test_the_record_counts_the_skipped_of_all_its_rounds():
    here = lab("local-only")
    _, info, ranks = here.segment(here.start, 0)
    skipped = jnp.zeros((2, 7), bool).at[0, 1:4].set(True).at[1, 3].set(True)
    twice = info._replace(loss=jnp.tile(info.loss, (2, 1)), skipped=skipped)
    twice = twice._replace(epochs=jnp.tile(info.epochs, (2, 1)))
    assert here.simulation.record(2, twice, ranks)["skipped"] == 4
    assert "skipped" not in here.simulation.record(2, twice._replace(skipped=None), ranks)


def test_if_all_are_skipped_the_run_ends():
    config = config_of("local-only", on_nonfinite="skip-client", lr_embedding=1e38)
    config = dataclasses.replace(config, rounds=1, top_k=5)
    with pytest.raises(UserError, match="round 1: all clients that trained were skipped"):
        run(config, small_federation())
    with pytest.raises(UserError, match=r"losses that are not finite \(training diverged\)"):
        run(dataclasses.replace(config, on_nonfinite="stop"), small_federation())


@pytest.mark.parametrize("name", NOBODY_TO_SKIP)
def test_methods_without_local_training_have_nobody_to_skip(name):
    with pytest.raises(UserError, match="on_nonfinite: 'skip-client' is unknown"):
        config_of(name, on_nonfinite="skip-client")


# --- memory ---------------------------------------------------------------------------------------


def test_a_device_out_of_memory_ends_in_advice(monkeypatch):
    federation = small_federation()
    bound = toy(np.zeros((2, 7, federation.num_items)))

    def greedy(*args):
        algorithm = bound(*args)

        def round(draws, state, hyper):
            state, info = algorithm.round(draws, state, hyper)
            far_too_much = jnp.sort(jnp.arange(2**44) ^ state.server)
            return State(state.clients, state.server + far_too_much[0]), info

        return algorithm._replace(round=round)

    monkeypatch.setitem(METHODS, "toy", Method(Toy, greedy))
    with pytest.raises(UserError, match=r"^memory: a device ran out of it, .*; take fewer clients"):
        run(Toy(rounds=1, top_k=5), federation)


def test_the_advice_is_that_of_the_plan():
    simulation = Simulation(config_of("fedem", dim=16), small_federation(), jax.devices()[:1])
    place = (simulation.config, simulation.federation, simulation.layout)
    with (
        pytest.raises(UserError, match=r"; --dim 8 would fit\.$"),
        advice_when_exhausted(simulation.memory, *place),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_other_errors_of_the_device_are_none_of_memory(monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setitem(
        METHODS, "toy", Method(Toy, toy(np.zeros((2, 7, small_federation().num_items))))
    )
    monkeypatch.setattr(Simulation, "segment", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(Toy(rounds=1, top_k=5), small_federation())

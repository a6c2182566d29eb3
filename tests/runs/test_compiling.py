"""Runs that differ in the seed alone share their compiled programs, and nothing else does."""

import dataclasses

import numpy as np
import pytest
from toy import small_federation

import fedem_jax as fj
from fedem_jax.config.registry import METHODS
from fedem_jax.runs import compiling, simulation

FEDMF = fj.preset("released", method="fedmf", dim=4, rounds=2, top_k=3, local_epochs=1)


@pytest.fixture
def compiled(monkeypatch, request):
    """Which programs were compiled, with which settings: the start of a run, and its rounds. These
    are compiled in earnest only where the test says so."""
    programs = []

    def counted(program, args, config, layout, donate=()):
        programs.append(("rounds" if donate else "start", config))
        if donate and not hasattr(request, "param"):
            return print
        return compiling.compiled(program, args, config, layout, donate)

    monkeypatch.setattr(simulation, "compiled", counted)
    return programs


@pytest.mark.parametrize("compiled", ["in earnest"], indirect=True)
def test_another_seed_compiles_nothing_and_gets_what_it_gets_alone(compiled):
    data = small_federation(clients=6, items=130)
    first, second = (fj.run(dataclasses.replace(FEDMF, seed=seed), data) for seed in (0, 1))
    assert [(name, config.seed) for name, config in compiled] == [("start", 0), ("rounds", 0)]
    compiling.forget_programs()
    alone = fj.run(dataclasses.replace(FEDMF, seed=1), data)
    assert [name for name, _ in compiled[2:]] == ["start", "rounds"]
    np.testing.assert_array_equal(second.per_client["test"], alone.per_client["test"])
    np.testing.assert_array_equal(second.curve["loss"], alone.curve["loss"])
    assert (first.curve["loss"] != second.curve["loss"]).all()


@pytest.mark.parametrize("change", [{"lr_embedding": 0.5}, {"num_negative": 2}, {"top_k": 2}])
def test_other_settings_are_compiled(compiled, change):
    data = small_federation(clients=6, items=130)
    for config in (FEDMF, dataclasses.replace(FEDMF, **change)):
        simulation.Simulation(config, data).segment(simulation.Simulation(config, data).init(), 1)
    assert [name for name, _ in compiled] == ["start", "rounds"] * 2


def test_clients_with_other_sizes_are_compiled(compiled):
    for clients in (6, 7):
        data = small_federation(clients=clients, items=130)
        made = simulation.Simulation(FEDMF, data)
        made.segment(made.init(), 1)
    assert [name for name, _ in compiled] == ["start", "rounds"] * 2


def test_the_one_used_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr(compiling, "MOST_REMEMBERED", 2)
    made = []
    for key in "abacbab":
        compiling.remembered(key, lambda key=key: made.append(key) or print)
    assert made == ["a", "b", "c", "b", "a"]


def test_a_method_from_elsewhere_is_compiled_each_time(compiled, monkeypatch):
    """Its code may have changed since."""
    registered = METHODS["fedmf"]._replace(algorithm=METHODS["fedmf"].load())
    monkeypatch.setitem(METHODS, "fedmf", registered)
    data = small_federation(clients=6, items=130)
    for _ in range(2):
        made = simulation.Simulation(FEDMF, data)
        made.segment(made.init(), 1)
    assert [name for name, _ in compiled] == ["start", "rounds"] * 2

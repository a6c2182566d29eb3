"""Real methods, stacked: the same results as alone, and no copies of the clients' tables."""

import dataclasses

import jax
import numpy as np
import pytest
from jaxprs import equations
from lab import config_of
from toy import small_federation

from fedem_jax.config.registry import METHODS
from fedem_jax.runs.memory import USABLE, WIDEST_BLOCK, plan_stack
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run
from fedem_jax.sweeps.stack import Stack, metrics_of

FEDERATION = small_federation()
FEDERATIONS = {
    0: FEDERATION,
    1: dataclasses.replace(FEDERATION, val_candidates=FEDERATION.test_candidates, seed=1),
}
"""Other candidates with the second seed, and nothing else, as the split has it."""
EXPLODES = {
    "fcf": ("lr_server", 1e30), "fedrap": ("lr_embedding", 1e30), "pfedrec": ("lr_network", 1e30),
    "gpfedrec": ("lr_network", 1e30), "cofedrec": ("lr_network", 1e30),
    "fedncf": ("lr_network", 1e30), "ease": ("l2", 1e-12),
}  # fmt: skip
"""What ends in numbers that are not finite: mostly a step size, `lr_embedding` if not named here; a
penalty that leaves a matrix singular."""
MAY_DIVERGE = [name for name in METHODS if name not in ("popularity", "item-knn")]
"""Counts and their quotients stay finite, whatever the settings."""


PIECES = {
    "merging": "once", "aggregation": "avg", "adapter": "features", "adapter_samples": "held-out",
    "adapter_loss": "ranking", "adapter_sharing": "average", "local_optimiser": "sgd",
    "lr_item_factor": 1.0, "server_optimiser": "adam", "lr_server": 0.01,
}  # fmt: skip
"""Of FedEM, beyond the paper."""
AVERAGE = {
    "aggregation": "avg", "merging": "replace", "client_fraction": 1.0, "aggregation_fraction": 1.0,
}  # fmt: skip
"""Of FedEM whose clients keep no tables."""
CASES = {method: (method, {}) for method in MAY_DIVERGE} | {
    "fedem, pieces": ("fedem", PIECES),
    "fedem, shrinkage": ("fedem", {"merging": "shrinkage"}),
    "fedem, one average": ("fedem", AVERAGE),
    "fedem, one average in closed form": (
        "fedem",
        AVERAGE | {"local_optimiser": "closed-form", "local_epochs": 1},
    ),
    "fedmf, masks": ("fedmf", {"secure_sum": True}),
    "fedmf, failing clients": ("fedmf", {"dropout": 0.4, "stragglers": 0.5}),
}


def trials_of(method, **changes):
    """Three trials of one program: two that stay finite, with other seeds and numbers, and between
    them one that does not."""
    base = config_of(method, rounds=3, top_k=5, **changes)
    name, huge = EXPLODES.get(method, ("lr_embedding", 1e37))
    values = [(0, 1.0, getattr(base, name)), (1, 1.0, huge), (1, 0.5, 1.5 * getattr(base, name))]
    started = "init_scale" not in base.without_effect()
    return [
        dataclasses.replace(
            base, seed=seed, init_scale=base.init_scale * (scale if started else 1), **{name: value}
        )
        for seed, scale, value in values
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_stacked_trial_equals_the_same_trial_alone_also_beside_one_that_diverges(case):
    method, changes = CASES[case]
    trials = trials_of(method, **changes)
    names = Simulation(trials[0], FEDERATION).algorithm.hyper._fields
    (program,) = {config.as_program(names) for config in trials}
    stack = Stack(program, FEDERATIONS, width=3, chunk=3)
    report, _ = stack.run(trials, [1, 3])
    assert not report.sound[1].all()
    assert report.sound[[0, 2]].all()
    for place in (0, 2):
        alone = run(trials[place], FEDERATIONS[trials[place].seed])
        for name, values in metrics_of(report.counts[place], FEDERATION, 5).items():
            part, metric = name.split(" ")
            expected = [alone.records[number][part][metric] for number in (0, 2)]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
        expected = [alone.records[number]["loss"] for number in (0, 2)]
        np.testing.assert_allclose(report.loss[place], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["local-only", "fedem", "fedca", "fedmf"])
@pytest.mark.slow_but("fedem")
def test_no_loop_copies_the_tables_of_all_clients(method):
    """A loop whose end is each trial's own keeps, in every pass, all that it carries for those that
    have finished; a branch of each trial's own becomes a choice between both."""
    noise = {} if method in ("local-only", "fedca") else {"ldp_scale": 0.1}
    config = config_of(method, size_classes=2, dim=3, **noise)
    stack = Stack(config, FEDERATIONS, width=5, chunk=5)
    bounds = np.array([[0, 1], [1, 2]], np.int32)
    args = (None, stack._members([config]), bounds, stack.simulation.lists, stack._held_out)
    jaxpr = jax.make_jaxpr(lambda *args: stack._chunk("", *args))(*args)
    shard, items = stack.simulation.layout.shard, FEDERATION.num_items
    assert shard == 7  # not the width of a block, which may well be selected
    found = list(equations(jaxpr.jaxpr))
    chosen = [e.outvars[0].aval.shape for e in found if e.primitive.name == "select_n"]
    assert (5, shard, items, 3) not in chosen
    if method == "fedmf":
        assert (5, items, 3) not in chosen  # the sum of the noises
    loops = [e for e in found if e.primitive.name == "while"]
    assert any((5, shard) == v.aval.shape[:2] for loop in loops for v in loop.outvars)
    assert {loop.params["cond_jaxpr"].out_avals[0].shape for loop in loops} == {()}
    branches = [e for e in found if e.primitive.name == "cond"]
    assert all(b.invars[0].aval.shape == () for b in branches)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow_but("fedem", "fedmf", "pfedrec", "fcf")
def test_what_a_sweep_takes_for_an_argument_changes_no_program(method):
    """Numbers of `Hyper` and the scale of the start: none of them is looked at as the program is
    made."""
    config = config_of(method)
    first = Simulation(config, FEDERATION, jax.devices()[:1])
    names = type(first.algorithm.hyper)._fields
    fields = {field.name for field in dataclasses.fields(config)} - set(config.switches)
    changed = {name: 0.5 * getattr(config, name) + 0.1 for name in names if name in fields}
    second = Simulation(dataclasses.replace(config, **changed), FEDERATION, jax.devices()[:1])
    texts = []
    for trial in (first, second):
        rest = (trial.key_draws, trial.lists, trial.held_out, first.algorithm.hyper)
        state = jax.eval_shape(trial.algorithm.init, trial.key_init, trial.algorithm.hyper)
        texts.append(str(jax.make_jaxpr(lambda *args, trial=trial: trial._rounds(1, *args))(
            state, 0, *rest)))  # fmt: skip
    assert texts[0] == texts[1]


def test_a_constant_share_of_the_aggregate_is_an_argument_too():
    names = Simulation(config_of("fedem"), FEDERATION).algorithm.hyper._fields

    def programs(name, *values):
        configs = (config_of("fedem", **{name: value}) for value in values)
        return len({config.as_program(names) for config in configs})

    assert programs("merging", "replace", "0.3", "0", "1") == 1
    assert programs("merging", "0", "none", "once", "per-batch", "shrinkage") == 5
    assert programs("alpha", 0.0, 0.5, 1.0) == 1
    assert programs("ldp_scale", 0.0, 0.1, 0.2) == 2  # without noise nothing is drawn
    assert programs("dim", 4, 8) == 2
    assert programs("seed", 0, 1) == 1


def test_as_many_trials_lie_side_by_side_as_fit(monkeypatch):
    config = config_of("fedem", block_size=0, dim=16)
    layout = Simulation(config, FEDERATION).layout
    assert plan_stack(config, FEDERATION, layout, 10)[1] == 1  # on a CPU
    monkeypatch.setattr("fedem_jax.runs.memory.on_cpu", lambda layout: False)
    ample, width = plan_stack(config, FEDERATION, layout, 10, limit=10**9)
    assert (width, ample.block) == (10, WIDEST_BLOCK)
    each = ample.total - ample.data
    tight = int((ample.data + 6.5 * each) / USABLE)
    plan, width = plan_stack(config, FEDERATION, layout, 10, limit=tight)
    assert width == 6
    assert plan.data + width * (plan.total - plan.data) <= USABLE * tight
    assert not plan_stack(config, FEDERATION, layout, 10, limit=1000)[0].fits

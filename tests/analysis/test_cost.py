"""What a plan says, against counts by hand, against what XLA allocates, and its refusals."""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pytest
from toy import small_federation

from fedem_jax.analysis.cost import classes_of, plan_class, plan_run
from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import METHODS
from fedem_jax.core.algorithm import Algorithm
from fedem_jax.core.layout import SizeClass
from fedem_jax.core.size_classes import ClientLoad
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of, load
from fedem_jax.errors import UserError
from fedem_jax.runs.memory import plan_memory
from fedem_jax.runs.simulation import Simulation
from fedem_jax.units import in_bytes, in_seconds


def simulation(federation: Federation | None = None, **settings) -> Simulation:
    values: dict[str, Any] = {
        "dim": 4,
        "batch_size": 16,
        "num_negative": 4,
        "size_classes": 2,
    } | settings
    return Simulation(FedEM(**values), federation or small_federation())


def need_of(at_hand: Simulation) -> ClientLoad:
    return ClientLoad.of(at_hand.federation, at_hand.config.num_negative, at_hand.config.batch_size)


def counted(federation: Federation, client: int, k: int) -> float:
    """Distinct items of a client's samples, drawn a few thousand times."""
    rng = np.random.default_rng(0)
    positives = federation.train_items(client)
    pool = np.setdiff1d(np.arange(federation.num_items), federation.barred_items(client))
    drawn = [
        len(np.unique([rng.choice(pool, k, replace=False) for _ in positives])) for _ in range(2000)
    ]
    return len(np.unique(positives)) + float(np.mean(drawn))


def test_useful_rows_are_what_draws_touch():
    at_hand = simulation()
    need, federation = need_of(at_hand), at_hand.federation
    sizes = np.diff(federation.offsets)
    np.testing.assert_array_equal(need.samples, 5 * sizes)
    np.testing.assert_array_equal(need.steps, np.ceil(5 * sizes / 16))
    for client in (0, int(sizes.argmax())):
        assert need.touched[client] == pytest.approx(counted(federation, client, 4), rel=0.01)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_padded_work_by_hand(block):
    at_hand = simulation(block_size=block)
    layout = at_hand.layout
    need = need_of(at_hand)
    for size in layout.classes:
        planned = plan_class(need, size, layout)
        rows, padded, useful = size.rows, 0, 0.0
        for device, members in enumerate(size.members):
            clients = layout.client[
                [device * layout.shard + m for m in members if m < layout.shard]
            ]
            places = size.members.shape[1]
            width = int(np.ceil(places / np.ceil(places / block)))
            for start in range(0, len(clients), width):
                padded += width * rows * max(need.steps[clients[start : start + width]])
            useful += sum(need.steps[c] * need.touched[c] for c in clients)
        assert planned.rows == rows
        assert planned.padded.sum() == padded
        assert planned.padding == pytest.approx(padded / useful)
        assert planned.padding >= 0.95  # rows are an expectation


def test_every_client_is_in_one_class():
    at_hand = simulation()
    plan = plan_run(at_hand)
    assert plan.classes
    for classes in plan.classes.values():
        assert sum(c.members for c in classes) == at_hand.federation.num_clients
    assert plan.imbalance >= 1


def test_a_method_may_declare_classes_for_each_phase():
    class Declares(NamedTuple):
        classes: dict[str, tuple[SizeClass, ...]]

    at_hand = simulation()
    coarse = {"own rows": at_hand.layout.classes, "merging": at_hand.layout.coarse}
    assert classes_of(cast(Algorithm, Declares(coarse)), at_hand.layout) == coarse


def test_the_plan_tells_the_bytes_on_the_wire():
    silent = simulation(merging="none", aggregation="avg")
    assert plan_run(silent).traffic.down == 0 < plan_run(simulation()).traffic.down
    assert plan_run(silent).traffic == silent.algorithm.traffic


def test_memory_is_what_the_state_holds_and_the_program_allocates():
    at_hand = simulation()
    memory = plan_memory(at_hand.config, at_hand.federation, at_hand.layout)
    state = at_hand.init()
    leaves = jax.tree.leaves((state.clients.items, state.server.items))
    held = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
    planned = memory.devices * (memory.clients + memory.server)
    assert held <= planned <= 1.5 * held + 8 * 400 * 4  # adapters weigh as much as a toy's tables
    assert memory.fits
    memory.check()


CLOSED_FORM = {
    "local_optimiser": "closed-form", "merging": "replace", "aggregation": "avg",
    "aggregation_fraction": 0.01, "local_epochs": 1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["ml-100k", "filmtrust"])
@pytest.mark.parametrize(
    ("block", "settings"),
    [
        (1, {}),
        (1, {"table_dtype": "bfloat16"}),
        (16, {}),
        (16, {"table_dtype": "bfloat16"}),
        (64, CLOSED_FORM),
    ],
)
def test_memory_is_within_two_fifths_of_what_xla_allocates(name, block, settings, data_dir):
    config = FedEM(dataset=name, block_size=block, **settings)
    at_hand = Simulation(config, load(name, data_dir=data_dir))
    analysis = at_hand.program(1, at_hand.init()).memory_analysis()
    assert analysis is not None
    memory = plan_memory(config, at_hand.federation, at_hand.layout)
    held = memory.clients + memory.server + memory.data
    assert held == pytest.approx(analysis.argument_size_in_bytes, rel=0.05)
    assert max(memory.scratch.values()) == pytest.approx(analysis.temp_size_in_bytes, rel=0.4)


def test_a_run_that_cannot_fit_is_refused_with_numbers_and_advice():
    at_hand = simulation(dim=64, aggregation_fraction=1.0)
    whole = plan_memory(at_hand.config, at_hand.federation, at_hand.layout, limit=10**12)
    memory = plan_memory(at_hand.config, at_hand.federation, at_hand.layout, limit=whole.total)
    assert not memory.fits
    with pytest.raises(UserError) as refusal:
        memory.check()
    sentence = str(refusal.value)
    assert in_bytes(memory.total) in sentence
    assert in_bytes(0.9 * memory.limit) in sentence
    assert "--dim 32" in sentence
    assert "--table-dtype bfloat16" in sentence
    assert "--aggregation-fraction 0.5" in sentence
    for changes in ({"dim": 32}, {"table_dtype": "bfloat16"}, {"aggregation_fraction": 0.5}):
        changed = dataclasses.replace(at_hand.config, **changes)
        plan_memory(changed, at_hand.federation, at_hand.layout, limit=whole.total).check()


def test_nothing_fits_in_nothing():
    at_hand = simulation()
    memory = plan_memory(at_hand.config, at_hand.federation, at_hand.layout, limit=1000)
    with pytest.raises(UserError, match="fewer clients or items"):
        memory.check()


def test_blocks_are_as_wide_as_fits(monkeypatch):
    at_hand = simulation()
    given = (at_hand.config, at_hand.federation, at_hand.layout)
    assert plan_memory(*given).block == 1  # a table in the cache of its core
    monkeypatch.setattr("fedem_jax.runs.memory.on_cpu", lambda layout: False)
    widest = plan_memory(*given, limit=10**12)
    assert widest.block == 256
    one = plan_memory(dataclasses.replace(at_hand.config, block_size=2), *given[1:], limit=10**12)
    assert one.block == 2
    four = plan_memory(dataclasses.replace(at_hand.config, block_size=4), *given[1:], limit=10**12)
    between = int((one.total + four.total) / 2 / 0.9)
    assert plan_memory(*given, limit=between).block == 2


def test_units():
    assert in_bytes(999) == "999 B"
    assert in_bytes(52.1e6) == "52.1 MB"
    assert in_bytes(3.2e12) == "3.2 TB"
    assert in_seconds(1.5) == "1.5 s"
    assert in_seconds(0.0123) == "12.3 ms"
    assert in_seconds(2e-9) == "0.002 us"


@pytest.mark.parametrize("method", METHODS)
def test_the_command_prints_a_plan_of_80_columns(method, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    cli.main(["plan", "--method", method, "--preset", "released"])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    config = METHODS[method].settings()
    planned = Simulation(config, federation_of(config))
    phases = classes_of(planned.algorithm, planned.layout)
    scratch = [f"scratch: {phase}" for phase in planned.memory.scratch]
    for words in ("padded over useful work", "clients' state", "fits", *phases, *scratch):
        assert words in shown
    told = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"up, from all clients {in_bytes(planned.algorithm.traffic.up)}" in told
    assert f"down, to all clients {in_bytes(planned.algorithm.traffic.down)}" in told

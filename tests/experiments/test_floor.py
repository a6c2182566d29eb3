"""The least time of a round: work against counts by hand, and the measured machine."""

import dataclasses
from typing import Any

import jax
import pytest
from floor import ADAM, LOSS, Machine, Work, measure_machine, round_work
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.core.size_classes import ClientLoad
from fedem_jax.runs.simulation import Simulation


def config_of(**settings) -> FedEM:
    values: dict[str, Any] = {"dim": 4, "batch_size": 16, "num_negative": 4, "size_classes": 2}
    return FedEM(**values | settings)


def test_work_by_hand():
    config, federation = config_of(merging="none", aggregation="avg"), small_federation()
    clients, items = federation.num_clients, federation.num_items
    load = ClientLoad.of(federation, config.num_negative, config.batch_size)
    work = round_work(config, federation, epochs=3)
    assert set(work) == {"train", "aggregate", "evaluate"}
    on_rows = 3 * float(load.steps @ load.touched)
    assert work["train"].operations == pytest.approx(on_rows * (4 * (5 + ADAM) + LOSS))
    assert work["train"].moved == pytest.approx(8 * 4 * load.touched.sum())
    assert work["evaluate"].operations == 2 * clients * items * 4
    assert work["aggregate"].operations == 2 * items * 4  # one table, of one upload
    merging = round_work(dataclasses.replace(config, merging="per-batch"), federation, epochs=3)
    assert merging["train"].operations == pytest.approx(work["train"].operations * 6 / 7)


@pytest.mark.parametrize("aggregation", ["avg", "both", "sim"])
def test_the_server_moves_the_uploads_and_what_it_hands_out(aggregation):
    config = config_of(aggregation=aggregation, aggregation_fraction=1.0)
    federation = small_federation()
    simulation = Simulation(config, federation, jax.devices()[:1])
    uploads = federation.num_clients
    tables = simulation.init().server.items
    moved = round_work(config, federation, epochs=1)["aggregate"].moved
    assert moved == 3 * uploads * tables[0].nbytes + tables.nbytes


def test_narrow_tables_move_fewer_bytes():
    narrow, full = (
        round_work(config_of(table_dtype=dtype), small_federation(), epochs=10)
        for dtype in ("bfloat16", "float32")
    )
    assert narrow["evaluate"].moved == full["evaluate"].moved / 2
    assert narrow["train"].operations == full["train"].operations


def test_the_floor_is_the_slower_of_both():
    machine, work = Machine(bandwidth=10.0, rate=100.0), Work(200.0, 30.0, 70.0)
    assert machine.floor(work) == 3
    assert machine.streamed(work) == 7


def test_no_phase_is_faster_in_memory_than_on_chip():
    machine, work = Machine(1e9, 1e9), round_work(config_of(), small_federation(), epochs=10)
    assert "merge and train" in work
    for phase in work.values():
        assert machine.streamed(phase) >= machine.floor(phase) > 0


def test_the_machine_is_measured():
    machine = measure_machine(Simulation(config_of(), small_federation()).layout, budget=0.01)
    assert machine.bandwidth > 1e8
    assert machine.rate > 1e8

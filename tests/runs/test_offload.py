"""Clients in the memory of the host: the same results, and a device that never holds them all."""

import dataclasses
import gc

import jax
import numpy as np
import pytest
from cutting import After, RunDirectory, Stopped, assert_equal, resumed, run
from lab import assert_same, config_of
from toy import small_federation

import fedem_jax as fj
from fedem_jax.errors import UserError
from fedem_jax.runs import memory, offload
from fedem_jax.runs.host_memory import bytes_on_host
from fedem_jax.runs.opened import open_run
from fedem_jax.runs.simulation import Simulation, kept_bytes
from fedem_jax.sweeps.description import Sweep


@pytest.fixture(scope="module")
def federation():
    return small_federation(clients=37)


CASES = {
    "fedem": {},
    "fedem, half": {"client_fraction": 0.5, "aggregation_fraction": 0.2},
    "fedmf": {},
    "fedmf, local": {"evaluated": "local", "client_fraction": 0.4, "table_dtype": "bfloat16"},
    "pfedrec": {"evaluated": "local"},
    "cofedrec": {},
}
"""With dense tables, rows over a common table, and none; some take part twice in a row."""


def both(case, **changes):
    """The same settings, with the clients on the device and on the host."""
    changes = {
        "rounds": 4, "eval_every": 2, "top_k": 5, "size_classes": 2, "client_fraction": 0.1,
        **CASES[case], **changes,
    }  # fmt: skip
    config = config_of(case.partition(",")[0], **changes)
    return config, dataclasses.replace(config, client_memory="host")


def without_seconds(result):
    return [{**record, "seconds": 0} for record in result.records]


@pytest.mark.slow_but("fedem")
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_clients_on_the_device(case, federation):
    device, host = (run(config, federation, devices=jax.devices()[:1]) for config in both(case))
    assert without_seconds(host) == without_seconds(device)
    assert ("rho" in host.records[-1]) == case.startswith("fedem")
    assert_same(host.state, device.state)
    assert_same(host.states["best"], device.states["best"])
    assert host.per_client.equals(device.per_client)
    assert host.recommend(k=3).equals(device.recommend(k=3))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fedem, half", "pfedrec"])
def test_blocks_and_devices_change_last_digits_alone(case, federation):
    """Participants fill the last block, and the last group of clients that rank, in part. Small
    first tables give small scores, whose last digits are beyond the tolerance."""
    device, host = both(case, block_size=4, init_scale=0.1)
    one = run(device, federation, devices=jax.devices()[:1])
    for devices in (1, 2):
        other = run(host, federation, devices=jax.devices()[:devices])
        scores = [result.scores(federation.user_ids, "last") for result in (one, other)]
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other.curve["loss"], one.curve["loss"], rtol=1e-5)


@pytest.mark.slow_but("device-fedmf, local")
@pytest.mark.parametrize("case", ["fedem", "fedmf, local"])
@pytest.mark.parametrize("first", ["device", "host"])
def test_a_run_goes_on_with_its_clients_elsewhere(case, first, federation, tmp_path):
    one, other = both(case) if first == "device" else both(case)[::-1]
    whole = run(one, federation, (), RunDirectory(tmp_path / "whole"), devices=jax.devices()[:1])
    directory = RunDirectory(tmp_path / "cut", False, str)
    with pytest.raises(Stopped):
        run(one, federation, (), directory, After(1), jax.devices()[:1])
    result, _ = resumed(other, federation, tmp_path / "cut", jax.devices()[:1])
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")
    again = open_run(tmp_path / "cut", federation, jax.devices()[:1])
    assert again.recommend(k=3).equals(whole.recommend(k=3))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["device", "host"])
def test_tables_that_wait_move_to_where_their_clients_are(first, federation, tmp_path):
    """On two devices each holds those of its own clients; all of them if these are on the host."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    one, other = both("fedem, half")[:: 1 if first == "device" else -1]
    whole = run(one, federation, devices=jax.devices()[:1])
    directory = RunDirectory(tmp_path, False, str)
    with pytest.raises(Stopped):
        run(one, federation, (), directory, After(1), jax.devices()[:2])
    result, _ = resumed(other, federation, tmp_path, jax.devices()[:2])
    assert result.curve["loss"].to_numpy() == pytest.approx(whole.curve["loss"].to_numpy())
    scores = [each.scores(federation.user_ids, "last") for each in (result, whole)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


def live(*shape):
    """Bytes on the devices, of arrays [..., *shape]."""
    arrays = [array for array in jax.live_arrays() if array.shape[1:] == shape]
    return sum({array.unsafe_buffer_pointer(): array.nbytes for array in arrays}.values())


@pytest.mark.slow
def test_the_device_never_holds_more_clients_than_planned(federation, monkeypatch):
    """Tables are counted whenever arrays have been sent, which is when there are most."""
    config = both("fedem")[1]
    simulation = offload.simulation_of(config, federation, jax.devices()[:1])
    shape, sent, seen = (federation.num_items, config.dim), offload.on_all, []

    def send(values, sharding):
        arrays = sent(values, sharding)
        seen.append(live(*shape))
        return arrays

    gc.collect()
    before = live(*shape)
    monkeypatch.setattr(offload, "on_all", send)
    state = simulation.init()
    for number in range(0, 4, 2):
        state, _, _ = simulation.segment(state, 2)(state, number)
    participants, uploaders = config.round_sizes(37)
    table = 4 * shape[0] * shape[1]
    assert max(seen) - before == (2 * participants + uploaders) * table
    assert table < state.clients.items.nbytes < 37 * table


@pytest.mark.parametrize("case", CASES)
def test_the_plan_counts_what_is_sent(case, federation, monkeypatch):
    simulation = offload.simulation_of(both(case)[1], federation, jax.devices()[:1])
    state, sent = simulation.init(), []
    monkeypatch.setattr(offload, "on_all", lambda rows, sharding: sent.append(rows) or rows)
    simulation.brought(state, np.arange(simulation.config.round_sizes(37)[0]))
    assert 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(sent)) == simulation.memory.clients


def test_the_plan_says_what_lies_where(federation):
    device, host = (
        fj.plan(config, federation, devices=1, device_memory="1GB").memory
        for config in both("fedem")
    )
    state = offload.simulation_of(both("fedem")[1], federation, jax.devices()[:1]).init()
    every = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state.clients))
    assert (device.clients, device.host, host.server) == (every, 0, device.server)
    assert host.clients * 37 == 2 * 3 * every
    assert host.saved == every - host.clients
    kept = [
        {"keep": "none", "checkpoint_minutes": 0},
        {"keep": "none", "checkpoint_minutes": 5},
        {"keep": "best-and-last"},
    ]
    configs = [dataclasses.replace(both("fedem")[1], **changes) for changes in kept]
    plans = [fj.plan(each, federation, device_memory="1GB").memory for each in configs]
    once, *more = [plan.host - host.clients for plan in plans]
    assert more == [2 * once, 3 * once]
    assert once < every


@pytest.mark.parametrize(("block_size", "block"), [(0, 32), (256, 256)])
def test_a_block_is_as_wide_as_a_round_needs_or_as_it_is_told(block_size, block):
    """Wider ones would bring more clients to the device, and save less: here nothing."""
    federation = small_federation(clients=300, items=50)
    changes = {"client_fraction": 0.1, "client_memory": "host", "block_size": block_size}
    config = config_of("fedem", **changes)
    planned = fj.plan(config, federation, devices=1, device_memory="80GB").memory
    assert planned.block == block
    assert planned.clients * 300 == 2 * block * (planned.clients + planned.saved)


@pytest.mark.slow_but("local-only")
@pytest.mark.parametrize("method", ["local-only", "fedem", "fedca", "fedrap"])
def test_the_host_keeps_the_rows_that_were_moved_as_planned(method, tmp_path):
    """In memory and on disk. Means over the draws are planned; many clients come near to them.
    A merge leaves rows as they are that no aggregated client has moved; the plan counts them."""
    settings = {"client_fraction": 0.1, "client_memory": "host", "rounds": 6, "eval_every": 3}
    federation = small_federation(clients=300, items=200)
    config = config_of(method, dim=16, top_k=5, size_classes=1, **settings)
    result = run(config, federation, (), RunDirectory(tmp_path), devices=jax.devices()[:1])
    simulation, clients = result.simulation, result.states["last"].clients
    planned = bytes_on_host(
        config, federation, simulation.layout, simulation.algorithm, simulation.shapes.clients
    )
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(clients))
    assert 0.85 * planned < held < 1.05 * planned
    assert held < 0.6 * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(clients))
    saved = max(file.stat().st_size for file in tmp_path.glob("checkpoint/*/*.npz"))
    assert saved == pytest.approx(kept_bytes(config, federation) / 2, rel=0.2)


def test_a_simulation_by_itself_plans_for_where_its_clients_are(federation):
    plans = [Simulation(config, federation).memory for config in both("fedem")]
    assert plans[0].clients == plans[1].clients > 0
    assert plans[1].host == 0


def test_who_does_not_fit_the_device_is_told_of_the_host(federation):
    device, host = (
        fj.plan(config, federation, device_memory="1GB").memory for config in both("fedem")
    )
    tight = (device.total + host.total) // 2 / memory.USABLE
    plan = fj.plan(both("fedem")[0], federation, device_memory=tight).memory
    assert not plan.fits
    assert "--client-memory host" in plan.advice
    assert fj.plan(both("fedem")[1], federation, device_memory=tight).memory.fits
    everybody = both("fedem", client_fraction=1.0)[0]
    plan = fj.plan(everybody, federation, device_memory=tight).memory
    assert "--client-memory" not in plan.advice


def test_a_host_without_room_is_refused_before_the_run(federation, monkeypatch):
    config = both("fedem")[1]
    simulation = offload.simulation_of(config, federation)
    needed = simulation.memory.host + simulation.memory.devices * simulation.memory.total
    for free, fits in ((needed / memory.USABLE + 2, True), (needed * 0.9, False)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: int(free))
        planned = offload.simulation_of(config, federation).memory
        assert planned.fits_host == fits
    with pytest.raises(
        UserError, match=r"clients' state needs .* on the host, but only .*--keep none"
    ):
        run(config, federation)


def test_data_in_one_place_stay_on_the_device(federation):
    """A comparison with references may be told to keep clients on the host."""
    config = config_of("central-mf", client_memory="host")
    simulation = offload.simulation_of(config, federation)
    assert type(simulation) is Simulation
    assert simulation.memory.host == 0


def test_several_processes_keep_their_clients(federation, monkeypatch):
    monkeypatch.setattr(offload, "several", lambda: True)
    with pytest.raises(UserError, match="client_memory: several processes"):
        offload.simulation_of(both("fedem")[1], federation)


def test_a_sweep_keeps_them_on_the_device():
    with pytest.raises(UserError, match="client_memory: trials keep"):
        Sweep(both("fedem")[1], (), (0,))

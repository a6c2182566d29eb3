"""Plans for devices that are not at hand."""

import jax
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.analysis.cost import plan, plan_run
from fedem_jax.client.paths import with_path
from fedem_jax.config.settings import FedMF
from fedem_jax.core.devices import AbsentDevice
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation
from fedem_jax.units import bytes_in


@pytest.mark.parametrize("method", ["fedem", "fedmf", "fedca", "gpfedrec", "ease", "central-mf"])
def test_a_plan_for_two_devices_is_that_of_two_devices(method):
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    config, federation = config_of(method, block_size=0), small_federation()
    here = plan_run(Simulation(config, federation, jax.devices()[:2]))
    there = plan(config, federation, devices=2)
    assert there.memory._replace(limit=0) == here.memory._replace(limit=0)
    assert there.memory.limit == pytest.approx(here.memory.limit, rel=0.2)  # of what is free
    assert there.traffic == here.traffic
    assert (there.samples == here.samples).all()
    assert there.table.equals(here.table)


def test_more_devices_hold_less_each_and_none_is_idle():
    config, federation = config_of("fedem"), small_federation()
    one, seven, many = (plan(config, federation, devices=number) for number in (1, 7, 10**9))
    assert one.memory.clients == 7 * seven.memory.clients
    assert many.memory.devices == 7  # no more devices than clients
    assert one.imbalance_of_samples == 1 < seven.imbalance_of_samples
    assert seven.imbalance_of_samples == 7 * seven.samples.max() / seven.samples.sum()


def test_their_memory_may_be_given():
    config, federation = config_of("fedmf", block_size=0), small_federation()
    planned = plan(config, federation, devices=4, device_memory="80GB").memory
    assert (planned.devices, planned.limit) == (4, 80 * 10**9)
    assert planned.block > 1  # as on a GPU
    assert plan(config, federation, device_memory=5000).memory.limit == 5000
    assert plan(config, federation, device_memory="80GB").memory.devices == 1
    assert not plan(config, federation, device_memory="1kB").memory.fits


def test_a_gpu_that_is_not_at_hand_is_taken_to_run_the_kernel():
    gpu, cpu = (AbsentDevice(0, platform, 10**9) for platform in ("gpu", "cpu"))
    assert with_path(FedMF(), gpu) == FedMF(local_training="fused")
    assert with_path(FedMF(local_training="xla"), gpu) == FedMF(local_training="xla")
    assert with_path(FedMF(), cpu) == FedMF(local_training="xla")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"devices": -2}, "devices: -2"),
        ({"devices": 1.5}, "devices"),
        ({"device_memory": "lots"}, "device_memory: lots is no number of bytes"),
        ({"device_memory": "0GB"}, "device_memory: 0GB"),
        ({"device_memory": -5}, "device_memory: -5"),
        ({"device_memory": "80 apples"}, "80GB or 24GiB"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(wrong, words):
    with pytest.raises(UserError, match=words):
        plan(config_of("fedmf"), small_federation(), **wrong)


def test_bytes_by_name():
    names = ("80GB", "80 gb", "1.5kB", "24GiB", "7", "512 B", "2TiB", "GB", "1e9", "", "5 G")
    numbers = (80 * 10**9, 80 * 10**9, 1500, 24 * 2**30, 7, 512, 2 * 2**40, 0, 0, 0, 0)
    assert tuple(map(bytes_in, names)) == numbers

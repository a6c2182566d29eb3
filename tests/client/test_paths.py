"""Which path local training takes, and the self-test of the kernel."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from fedem_jax.client import fused, paths
from fedem_jax.client.paths import agrees, largest_gap, self_test_of, with_path
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FCF, FedMF, FedNCF, LocalOnly
from fedem_jax.errors import UserError

CONFIGS = {
    "fedem": FedEM(dim=5),
    "fedem, once": FedEM(dim=4, merging="once", bce="logit"),
    "fedmf, plain steps": FedMF(dim=4, local_optimiser="sgd"),
    "local-only": LocalOnly(dim=4),
    "fedem, in parts": FedEM(dim=64),
    "fedmf, in parts": FedMF(dim=16, batch_size=512, local_optimiser="sgd"),
}


class Device(NamedTuple):
    platform: str
    device_kind: str


GPU = Device("gpu", "a GPU")


@pytest.fixture(autouse=True)
def anew():
    agrees.cache_clear()
    yield
    agrees.cache_clear()


@pytest.mark.slow_but("fedem")
@pytest.mark.parametrize("name", CONFIGS)
def test_both_paths_agree_in_the_self_test(name):
    assert largest_gap(jax.devices()[0], self_test_of(CONFIGS[name])) < 1e-5


def test_the_self_test_works_on_batches_in_parts_where_a_run_does():
    for dim, batch_size, in_parts in ((16, 256, False), (16, 257, True), (32, 256, True)):
        tested = self_test_of(FedMF(dim=dim, batch_size=batch_size)).batch_size
        assert (tested > fused.at_once(dim)) == in_parts


def test_a_kernel_that_differs_is_not_taken(monkeypatch):
    slope = fused.SLOPES["logit"]

    def wrong(logit, label):
        value, by_logit = slope(logit, label)
        return value, by_logit * jnp.where(label > 0, 1.01, 1.0)

    monkeypatch.setitem(fused.SLOPES, "logit", wrong)
    with pytest.warns(UserWarning, match="differs from XLA by .*, so local training is by XLA"):
        assert not agrees(jax.devices()[0], self_test_of(FedMF(dim=4, bce="logit")))


def test_a_kernel_that_does_not_run_is_not_taken(monkeypatch):
    def broken(device, config):
        raise NotImplementedError("no such device")

    monkeypatch.setattr(paths, "largest_gap", broken)
    with pytest.warns(UserWarning, match="does not run .no such device. on a GPU"):
        assert with_path(FedMF(), GPU).local_training == "xla"


def test_a_gpu_takes_the_kernel_where_there_is_one(monkeypatch):
    monkeypatch.setattr(paths, "largest_gap", lambda device, config: 1e-6)
    (cpu, *_), closed = jax.devices(), FedEM(merging="none", local_optimiser="closed-form")
    assert with_path(FedMF(), GPU).local_training == "fused"
    assert with_path(FedEM(), GPU).local_training == "fused"
    assert with_path(FedEM(adapter="table"), GPU).local_training == "xla"
    assert with_path(closed, GPU).local_training == "xla"
    assert with_path(FedMF(batch_size=1025), GPU).local_training == "xla"
    assert with_path(FedMF(loss="softmax"), GPU).local_training == "xla"
    assert with_path(FedMF(), cpu).local_training == "xla"
    for config in (FedNCF(), FCF(), FedMF(local_training="xla")):
        assert with_path(config, GPU) == config


def test_the_self_test_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(paths, "largest_gap", lambda device, config: made.append(config) or 0.0)
    for rate in (0.1, 0.2):
        with_path(FedEM(lr_embedding=rate), jax.devices()[0])
        assert agrees(jax.devices()[0], self_test_of(FedEM(lr_embedding=rate)))
    assert len(made) == 1


def test_a_batch_that_registers_cannot_hold_is_refused():
    with pytest.raises(UserError, match="has no kernel for batch_size=2000; give xla"):
        LocalOnly(local_training="fused", batch_size=2000)
    assert dataclasses.replace(LocalOnly(), batch_size=2000).local_training == "auto"

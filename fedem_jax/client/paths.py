"""Which path local training takes: XLA, or one kernel for all local epochs of a client."""

from __future__ import annotations

import dataclasses
import warnings
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedem_jax.client.fitting import elastic_fit_of, fit_of
from fedem_jax.client.fused import at_once
from fedem_jax.client.local import optimiser_of
from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF, LocalOnly
from fedem_jax.core.blocks import BLOCK
from fedem_jax.core.devices import AbsentDevice
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.models.adapter import Adapter
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import scoring

Fusable = LocalOnly | FedMF | FedEM
"""Settings of methods that have a kernel."""
CLOSE = 1e-4
"""Most difference between the two paths in the self-test."""
CLIENTS, ROWS, BATCH, EPOCHS = 4, 40, 16, 3
"""Of the self-test. Rows are met twice in a batch, and there is more than one chunk of steps."""


def with_path(config: Config, device: Any) -> Config:
    """The settings with `local_training` decided, where they leave it open (`auto`).

    On a GPU it becomes `fused` if there is a kernel for these settings and it passes a self-test on
    the device. Else it becomes `xla`. A device that is not at hand is taken to pass it.

    Args:
        config: all settings.
        device: where it runs.
    """
    if not isinstance(config, Fusable) or config.local_training != "auto":
        return config
    fused = device.platform in ("gpu", "cuda") and not config.without_kernel
    if fused and not isinstance(device, AbsentDevice):
        fused = agrees(device, self_test_of(config))
    return dataclasses.replace(config, local_training="fused" if fused else "xla")


def self_test_of(config: Fusable) -> Fusable:
    """Settings of the self-test: the same client, with steps of one length for all. If the kernel
    works on a batch in parts, it does so here too."""
    names = ("dim", "bce", "local_optimiser", "merging", "adapter_widths")
    same = {name: getattr(config, name) for name in names if hasattr(config, name)}
    if same.get("merging", "per-batch") != "per-batch":
        same["merging"] = "none"
    whole = at_once(config.dim)
    batch = BATCH if config.batch_size <= whole else whole + BATCH
    return type(config)(lr_embedding=0.05, batch_size=batch, local_epochs=EPOCHS, **same)


@lru_cache
def agrees(device: Any, config: Fusable) -> bool:
    """Whether both paths train a few clients alike on a device; warns if they do not."""
    try:
        gap = largest_gap(device, config)
    except Exception as error:  # whatever the compiler of an unknown device says
        words = str(error).splitlines() or [type(error).__name__]
        reason = f"does not run ({words[0][:200]})"
    else:
        if gap <= CLOSE:
            return True
        reason = f"differs from XLA by {gap:.1e}"
    warnings.warn(
        f"The fused kernel {reason} on {device.device_kind}, so local training is by XLA.",
        stacklevel=2,
    )
    return False


def largest_gap(device: Any, config: Fusable) -> float:
    """Largest difference between the two paths, over all parameters of the clients.

    Args:
        device: where they train.
        config: settings of the self-test, as `self_test_of` makes them.
    """
    numbers, batch = np.random.default_rng(0), config.batch_size
    samples = 3 * batch + 2  # the last batch is not full
    labels = jnp.float32(numbers.random((CLIENTS, ROWS)) < 0.3)
    row_of = jnp.int32(numbers.integers(0, ROWS, (CLIENTS, samples)))
    counts = jnp.int32([samples, 0, 2 * batch + 5, batch])
    users = jnp.float32(numbers.normal(size=(CLIENTS, config.dim)))
    tables = jnp.float32(numbers.normal(size=(2, CLIENTS, ROWS, config.dim)))
    on_device = jax.device_put((row_of, labels, counts, users, *tables), device)

    def end(path: str) -> Any:
        train = trainer(dataclasses.replace(config, local_training=path))
        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.vmap(train, axis_name=BLOCK))(*on_device)

    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), end("xla"), end("fused"))
    largest = np.max(jax.tree.leaves(gaps))
    return float(np.where(np.isnan(largest), np.inf, largest))


def trainer(config: Fusable) -> Any:
    """`(row_of, labels, count, user, table, aggregated) -> parameters` of one client."""
    model, rate = scoring(MF(config.dim), config.bce, config.loss), jnp.float32(config.lr_embedding)
    rule = Rule(config.batch_size, config.local_epochs, jnp.float32(1e-4))

    class Rates:
        lr_embedding = rate
        lr_adapter = jnp.float32(0.01)
        lr_item_factor = jnp.float32(1.0)

    def samples_of(row_of, labels, count):
        def order(epoch, count):
            return lambda position: (position + epoch) % jnp.maximum(count, 1)

        rows = jnp.arange(len(labels), dtype=jnp.int32)
        return ClientSamples(rows, labels, row_of, count, order, rule)

    alone = isinstance(config, LocalOnly)
    steps = optax.adam(rate) if alone else optimiser_of(config, Rates, ROWS)

    def plain(row_of, labels, count, user, table, _):
        fit = fit_of(config, model.objective, steps, rate)
        private, table, trained = fit({"user": user}, table, samples_of(row_of, labels, count))
        return private, table, trained.epochs

    if not isinstance(config, FedEM) or config.merging != "per-batch":
        return plain
    net = Adapter(config.adapter_widths)

    def rho_of(adapter, local, target, evidence):
        return jnp.asarray(net.apply({"params": adapter}, local, target))

    def merging(row_of, labels, count, user, table, aggregated):
        adapter = net.init(jax.random.key(0), table, aggregated)["params"]
        adapt = optax.flatten(optax.adam(Rates.lr_adapter))
        loss = model.objective
        fit = elastic_fit_of(config, loss, loss, rho_of, adapt, steps, Rates)
        samples = samples_of(row_of, labels, count)
        adapter, private, merged, trained = fit(adapter, {"user": user}, table, aggregated, samples)
        return (
            adapter,
            private,
            merged,
            trained.epochs,
            plain(row_of, labels, count, user, table, aggregated),
        )

    return merging

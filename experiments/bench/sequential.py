"""The sequential twin: one client after another, one optimiser step per call on its whole table.

This is how the programs released with this line of papers train, written in plain JAX: a Python
loop over clients, epochs and mini-batches; each step is one compiled call that gathers the batch's
rows and then moves every parameter of the client, touched or not, by dense Adam. It is given its
samples and visiting orders, so that it does no drawing and can be compared with the block program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedem_jax.client.merging import merged
from fedem_jax.config.fedem import FedEM
from fedem_jax.models.adapter import Adapter
from fedem_jax.models.losses import BCE
from fedem_jax.models.mf import MF
from fedem_jax.runs.simulation import Simulation


class Drawn(NamedTuple):
    """One client's samples of a round and the order in which each epoch visits them."""

    items: np.ndarray
    """[S]"""
    labels: np.ndarray
    """[S]"""
    orders: np.ndarray
    """[E, S]"""

    def batches(self, epoch: int, size: int) -> Iterator[np.ndarray]:
        """Positions of the samples of each batch of an epoch; the last may hold fewer."""
        order = self.orders[epoch]
        return (order[start : start + size] for start in range(0, len(order), size))


def drawer(simulation: Simulation) -> Callable[[int, int], Drawn]:
    """`(client, number) -> drawn`: what the block program draws for a client in round `number`."""
    config, federation = simulation.config, simulation.federation
    sizes = np.diff(federation.offsets)
    capacity, barred = int(sizes.max()), int(np.diff(federation.barred_offsets).max())
    epochs = jnp.arange(config.local_epochs, dtype=jnp.int32)

    @jax.jit
    def drawn(lists, client, number):
        draws = simulation.draws(simulation.key_draws, number, lists)
        items, labels, count, _ = draws.samples(client, capacity, barred)
        position = jnp.minimum(jnp.arange(len(items), dtype=jnp.int32), count - 1)
        orders = jax.vmap(lambda epoch: draws.order(client, epoch, count)(position))(epochs)
        return items, labels, orders

    def draw(client: int, number: int) -> Drawn:
        count = sizes[client] * (1 + config.num_negative)
        arrays = drawn(simulation.lists, jnp.int32(client), jnp.int32(number))
        return Drawn(*(np.asarray(array)[..., :count] for array in arrays))

    return draw


class Outcome(NamedTuple):
    """A client after its local epochs."""

    private: Any
    items: Any
    """[I, D]"""
    adapter: Any
    loss: float
    """Mean over all samples seen, as the block program reports it."""
    epochs: int


class Sequential:
    """Local training of single clients, with the settings of a configuration."""

    def __init__(self, config: FedEM):
        self.config = config
        backbone, theta = MF(config.dim, config.init_scale), Adapter(config.adapter_widths)
        loss = BCE[config.bce]
        adapt, embed = optax.adam(config.lr_adapter), optax.adam(config.lr_embedding)

        def weigh(adapter, table, target):
            return jnp.asarray(theta.apply({"params": adapter}, table, target))

        def batch_loss(embedding, adapter, target, batch):
            items, labels, weights = batch
            private, table = embedding
            rows = table[items]
            if target is not None:
                toward = target[items]
                rows = merged(rows, toward, weigh(adapter, rows, toward))
            logits = jnp.asarray(backbone.apply({"params": private}, rows))
            return jnp.sum(weights * loss(logits, labels)) / weights.sum()

        def step(carry, target, batch):
            embedding, adapter, moments, adapter_moments, total = carry
            if target is not None:
                slope = jax.grad(batch_loss, argnums=1)(embedding, adapter, target, batch)
                update, adapter_moments = adapt.update(slope, adapter_moments)
                adapter = optax.apply_updates(adapter, update)
            value, slope = jax.value_and_grad(batch_loss)(embedding, adapter, target, batch)
            update, moments = embed.update(slope, moments)
            embedding = optax.apply_updates(embedding, update)
            total = total + value * batch[2].sum()
            return embedding, adapter, moments, adapter_moments, total

        def merge(table, target, adapter):
            return merged(table, target, weigh(adapter, table, target))

        def start(embedding, adapter):
            return embed.init(embedding), adapt.init(adapter)

        self._start = jax.jit(start)
        self._step, self._merge = jax.jit(step, donate_argnums=0), jax.jit(merge)

    def train(self, private, items, adapter, target, drawn: Drawn) -> Outcome:
        """Merge if there is a `target` table, then train batch by batch until the loss settles."""
        config, count = self.config, len(drawn.items)
        with jax.default_matmul_precision("highest"):
            private, items, adapter = jax.tree.map(jnp.array, (private, items, adapter))
            if target is not None:
                target = jnp.array(target)
                items = self._merge(items, target, adapter)
            moments = self._start((private, items), adapter)
            carry = ((private, items), adapter, *moments, jnp.float32(0))
            before, epochs = float("inf"), 0
            for order in drawn.orders:
                for start in range(0, count, config.batch_size):
                    carry = self._step(carry, target, self._batch(drawn, order, start))
                epochs += 1
                now = float(carry[-1]) / (epochs * count)
                settled = abs(now - before) / abs(before + 1e-5) < config.threshold
                before = now
                if settled:
                    break
        (private, items), adapter, *_ = carry
        return Outcome(private, items, adapter, before, epochs)

    def _batch(self, drawn: Drawn, order: np.ndarray, start: int):
        """Items, labels and weights of a batch; the last of an epoch is filled up, at weight 0."""
        chosen = order[start : start + self.config.batch_size]
        room = self.config.batch_size - len(chosen)
        items, labels = drawn.items[chosen], drawn.labels[chosen]
        weights = np.ones(len(chosen), np.float32)
        return tuple(np.pad(values, (0, room)) for values in (items, labels, weights))

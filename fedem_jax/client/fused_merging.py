"""Merging batch by batch inside the fused kernel: what `client.merging.fit_elastic` computes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fedem_jax.client.fused import SLOPES, Adam, fit_fused, wide
from fedem_jax.client.kernel import Batch, adam_step
from fedem_jax.client.local import InTurn
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples


class Adapting(NamedTuple):
    """The adapter of a client in the kernel, with its optimiser."""

    layers: list[tuple[Array, ...]]
    """Kernels and bias of each layer. The first has two kernels: of q, and of g - q."""
    first: Any
    second: Any
    """Moments of Adam."""
    lr: Float[Array, "*1"]


class Merged(NamedTuple):
    """A client whose scores are p . (q + rho (g - q)), with rho by a network of q and g - q."""

    loss: str
    name: str = "merging"

    def nothing(self, own: Adapting) -> Any:
        return jax.tree.map(jnp.zeros_like, own.layers)

    def by_own(self, own: Adapting, user: Float[Array, " D"], batch: Batch) -> Any:
        """Slopes of the loss by the adapter."""
        out, pull = jax.vjp(lambda layers: network(layers, batch.rows, batch.away), own.layers)
        (slopes,) = pull(self.by_output(out, user, batch)[1])
        return slopes

    def adapted(self, own: Adapting, summed: Any, unbiased: tuple[Array, Array]) -> Adapting:
        """A step of Adam of the adapter, on the same batch as the step of the rows."""
        new = [
            adam_step(own.lr, x, first, second, slope, unbiased)
            for x, first, second, slope in zip(
                *map(jax.tree.leaves, (own.layers, own.first, own.second, summed)), strict=True
            )
        ]
        kind = jax.tree.structure(own.layers)
        layers, first, second = (jax.tree.unflatten(kind, part) for part in zip(*new, strict=True))
        return Adapting(layers, first, second, own.lr)

    def slopes(self, own: Adapting, user: Float[Array, " D"], batch: Batch) -> tuple[Array, ...]:
        def of_rows(rows, away):
            return network(own.layers, rows, away)

        assert batch.away is not None
        out, pull = jax.vjp(of_rows, batch.rows, batch.away)
        loss, by_output, slope, rho = self.by_output(out, user, batch)
        by_row, by_move = pull(by_output)
        by_user = jnp.sum(slope[:, None] * (batch.rows + rho[:, None] * batch.away), axis=0)
        direct = (slope * (1 - rho))[:, None] * user[None]
        return loss, by_user, direct + by_row - by_move

    def by_output(self, out: Float[Array, " W"], user, batch: Batch) -> tuple[Array, ...]:
        """Loss of a batch, its slopes by the network's output and by the logits, and rho, [W]."""
        rho = 1 / (1 + jnp.exp(-out))
        toward = jnp.sum(user[None] * batch.away, axis=1)
        logit = jnp.sum(user[None] * batch.rows, axis=1) + rho * toward
        value, slope = SLOPES[self.loss](logit, batch.label)
        slope = batch.weight * slope
        by_output = slope * toward * rho * (1 - rho)
        return jnp.sum(batch.weight * value), by_output, slope, rho


def network(
    layers: list[tuple[Array, ...]], rows: Float[Array, "W D"], away: Float[Array, "W D"] | None
) -> Float[Array, " W"]:
    """The network of `models.adapter.Adapter` for rows q, before the sigmoid that makes it rho.

    `away` is g - q.
    """
    assert away is not None
    (of_row, of_move, bias), *inner, (last, last_bias) = layers
    hidden = product(rows, of_row) + product(away, of_move) + bias[None]
    for kernel, bias in inner:
        hidden = product(positive(hidden), kernel) + bias[None]
    return jnp.sum(positive(hidden) * last[None], axis=1) + last_bias


def positive(hidden: Float[Array, "W n"]) -> Float[Array, "W n"]:
    """ReLU, whose slope at 0 is 0."""
    return jnp.where(hidden > 0, hidden, 0.0)


def product(rows: Float[Array, "W n"], kernel: Float[Array, "n m"]) -> Float[Array, "W m"]:
    """A matrix product in full float32."""
    return jnp.dot(rows, kernel, precision=lax.Precision.HIGHEST)


def fit_merging(
    loss: str,
    adapter: dict[str, dict[str, Array]],
    lr_adapter: Float[Array, ""],
    user: Float[Array, " D"],
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    samples: ClientSamples,
    optimiser: Adam | InTurn,
    interpret: bool | None = None,
) -> tuple[Any, Float[Array, " D"], Float[Array, "M D"], Trained]:
    """Train adapter, user vector and table in turn, batch by batch, in one kernel.

    Args:
        loss: name of the loss, one of `SLOPES`.
        adapter: parameters of `models.adapter.Adapter`, theta_u.
        lr_adapter: step size of its Adam.
        user, table, aggregated, samples: as for `client.merging.fit_elastic`.
        optimiser, interpret: as for `fit_fused`.
    """
    layers = as_layers(adapter, table.shape[1])
    zeros = jax.tree.map(jnp.zeros_like, layers)
    own = Adapting(layers, zeros, zeros, jnp.asarray(lr_adapter, jnp.float32)[None])
    own, user, table, trained = fit_fused(
        Merged(loss), own, user, table, aggregated, samples, optimiser, interpret
    )
    return as_adapter(own.layers, adapter), user, table, trained


def as_layers(adapter: dict[str, dict[str, Array]], dim: int) -> list[tuple[Array, ...]]:
    """The parameters of an adapter as layers of the kernel, padded with zeros.

    Padded columns of a hidden layer are zero, and so are their gradients.
    """
    names = [f"Dense_{n}" for n in range(len(adapter))]
    columns, layers = wide(dim), []
    for name in names[:-1]:
        kernel, bias = adapter[name]["kernel"], adapter[name]["bias"]
        width = wide(len(bias))
        parts = [kernel[:dim], kernel[dim:]] if name == names[0] else [kernel]
        parts = [jnp.pad(x, ((0, columns - len(x)), (0, width - x.shape[1]))) for x in parts]
        layers.append((*parts, jnp.pad(bias, (0, width - len(bias)))))
        columns = width
    last = adapter[names[-1]]
    kernel = last["kernel"][:, 0]
    return [*layers, (jnp.pad(kernel, (0, columns - len(kernel))), last["bias"])]


def as_adapter(
    layers: list[tuple[Array, ...]], like: dict[str, dict[str, Array]]
) -> dict[str, dict[str, Array]]:
    """The parameters of an adapter shaped as `like`, of layers of the kernel."""
    adapter = {}
    for n, layer in enumerate(layers):
        kernel, bias = like[f"Dense_{n}"]["kernel"], like[f"Dense_{n}"]["bias"]
        *parts, new_bias = layer
        if n == 0:
            dim = len(kernel) // 2
            new = jnp.concatenate([part[:dim] for part in parts])
        else:
            new = parts[0] if parts[0].ndim == 2 else parts[0][:, None]
        adapter[f"Dense_{n}"] = {
            "kernel": new[: kernel.shape[0], : kernel.shape[1]],
            "bias": new_bias[: len(bias)],
        }
    return adapter

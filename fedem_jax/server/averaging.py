"""One averaged item table, which replaces every client's.

Clients move few rows, so the average is the old table plus the sum of what was moved. The server
goes there, or makes a step of Adam along that sum (FedAdam; Reddi et al., ICLR 2021, Algorithm 2):
most rows of a table have few clients, and their average hardly moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF
from fedem_jax.config.shared import MaskedUploads, ServerOptimiser
from fedem_jax.core.fixed_point import from_fixed_point
from fedem_jax.core.round import RoundContext, Sum
from fedem_jax.core.table_storage import from_storage, to_storage


class Download(NamedTuple):
    """What the server hands out, one table for all, and what moves it."""

    items: Num[Array, "I D"]
    """G."""
    before: Num[Array, "I D"]
    """G as the last round started from it, for clients that rank with their own rows."""
    moments: optax.OptState | None = None
    """Adam's, kept over the rounds, if the server has it; no client downloads them."""

    @classmethod
    def of(
        cls, table: Float[Array, "I D"], dtype: Any, moments: optax.OptState | None = None
    ) -> Download:
        """The first table, and the first moments of Adam, if the server has it."""
        table = to_storage(table, dtype)
        return cls(table, table, moments)


ShareOf = Callable[[Int[Array, "*n"]], Float[Array, "*n"]]
"""`(samples) -> a_u`: the share in the average of a client with so many samples."""


def share_of(config: FedMF | FedEM, context: RoundContext) -> ShareOf:
    """Shares of the round's uploads: n_u / sum n, or 1 / A, over the A uploads that arrive."""
    total = context.samples_of(context.arrived).sum()

    def share(samples):
        if config.weighting == "samples":
            return samples / total
        return jnp.full(samples.shape, 1 / context.arrived.shape[0])

    return share


def nothing_sent(table: Num[Array, "I D"], rest: Any = ()) -> Sum:
    """The sum of uploads before anybody uploads."""
    return Sum(jnp.zeros(table.shape), jax.tree.map(jnp.zeros_like, rest))


def unmasked(config: MaskedUploads, upload: Sum) -> Sum:
    """What the sum of masked uploads says, in which all masks have cancelled."""
    return jax.tree.map(from_fixed_point, upload) if config.secure_sum else upload


def first_moments(config: ServerOptimiser, parameters: Any) -> optax.OptState | None:
    """Adam's before the first round, if the server has it."""
    return optax.scale_by_adam().init(parameters) if config.moves_by_adam else None


def server_step(
    config: ServerOptimiser,
    hyper: Any,
    moments: optax.OptState | None,
    average: Any,
    table: Float[Array, "*n D"],
) -> tuple[Any, optax.OptState | None]:
    """How far the server moves its parameters.

    Args:
        config: whether it has Adam.
        hyper: `lr_server`, `beta1`, `beta2` and `server_decay`.
        moments: Adam's.
        average: sum_u a_u (Q_u - G); in a `Sum`, with the same of what else is averaged.
        table: G, which has a penalty.

    Returns:
        `average`, or a step of Adam along it; the new moments.
    """
    if not config.moves_by_adam:
        return average, None
    kept = hyper.server_decay * table
    if isinstance(average, Sum):
        return adam_step(hyper, moments, average._replace(items=average.items - kept))
    return adam_step(hyper, moments, average - kept)


def adam_step(hyper: Any, moments: Any, direction: Any) -> tuple[Any, optax.OptState]:
    """A step of Adam along a direction, and the new moments.

    Args:
        hyper: `lr_server`, `beta1` and `beta2`.
        moments: Adam's.
        direction: any tree of arrays. The step along a gradient is subtracted.
    """
    adam = optax.scale_by_adam(b1=hyper.beta1, b2=hyper.beta2)
    step, moments = adam.update(direction, moments)
    return jax.tree.map(lambda leaf: hyper.lr_server * leaf, step), moments


def average(download: Download, upload: Sum) -> Download:
    """The server's step, G + sum_u a_u (Q_u - G); the shares of the clients sum to 1."""
    return _replaced(download, upload.items)


def moved(
    config: ServerOptimiser, hyper: Any, download: Download, upload: Sum
) -> tuple[Download, Any]:
    """The server's step: as `average`, or by Adam along the way there.

    Returns:
        The new table, and how far the server moves what is averaged beside it.
    """
    before = from_storage(download.items)
    step, moments = server_step(config, hyper, download.moments, upload, before)
    return _replaced(download, step.items, moments), step.rest


def _replaced(
    download: Download, step: Float[Array, "I D"], moments: optax.OptState | None = None
) -> Download:
    """The table moved by a step."""
    table = from_storage(download.items) + step
    return Download(to_storage(table, download.items.dtype), download.items, moments)

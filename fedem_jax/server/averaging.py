"""One averaged item table, which replaces every client's.

Clients move few rows, so the average is the old table plus the sum of what was moved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF
from fedem_jax.config.shared import MaskedUploads
from fedem_jax.core.fixed_point import from_fixed_point
from fedem_jax.core.round import RoundContext, Sum
from fedem_jax.core.table_storage import from_storage, to_storage


class Download(NamedTuple):
    """What the server hands out, one table for all."""

    items: Num[Array, "I D"]
    """G."""
    before: Num[Array, "I D"]
    """G as the last round started from it, for clients that rank with their own rows."""

    @classmethod
    def of(cls, table: Float[Array, "I D"], dtype: Any) -> Download:
        """The first table."""
        table = to_storage(table, dtype)
        return cls(table, table)


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


def average(download: Download, upload: Sum) -> Download:
    """The server's step, G + sum_u a_u (Q_u - G); the shares of the clients sum to 1."""
    table = from_storage(download.items) + upload.items
    return Download(to_storage(table, download.items.dtype), download.items)

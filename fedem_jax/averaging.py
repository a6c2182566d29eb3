"""An item table that is averaged and replaces every client's, without a table for each of them.

A client moves few rows, so the average is the old table plus the sum of what was moved; and what a
client ranks with before its next download is the old table with its own rows on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedem_jax.clients import Layout
from fedem_jax.local import exact, tree_at
from fedem_jax.own_rows import OwnRows
from fedem_jax.training import Sum


class Download(NamedTuple):
    """What the server hands out, one table for all."""

    items: Float[Array, "I D"]
    """G."""
    before: Float[Array, "I D"]
    """G as the last round started from it."""


def serve(download: Download, upload: Sum) -> Download:
    """The server's step; the weights of the clients sum to 1."""
    table = exact(download.items) + upload.items
    return Download(table.astype(download.items.dtype), download.items)


def copies(tree: Any, layout: Layout) -> Any:
    """The same parameters for every client."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.padded, *leaf.shape)), tree)


def scores(
    logits: Callable[[Any, Array], Array],
    private: Any,
    own: OwnRows | None,
    download: Download,
    ids: Int[Array, " B"],
    most_rows: int,
) -> Float[Array, "B I"]:
    """Logits of all items: by the new table if clients keep no rows of their own, else by their own
    rows over the table that the last round started from. (A client that sat out that round has the
    rows of its last one, which are all items if its size class has room for them; the released
    programs leave it all of its old table.)"""

    def one(id):
        mine = tree_at(private, id)
        if own is None:
            return logits(mine, exact(download.items))
        items, table = own.of(id, most_rows)
        return logits(mine, exact(download.before)).at[items].set(logits(mine, table), mode="drop")

    return jax.vmap(one)(ids)

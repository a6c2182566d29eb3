"""An item table that is averaged and replaces every client's, without a table for each of them.

A client moves few rows, so the average is the old table plus the sum of what was moved; and what a
client ranks with before its next download is the old table with its own rows on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from fedem_jax.config.settings import FedMF, PFedRec
from fedem_jax.core.algorithm import tree_at
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, Sum, Trained, training_scratch
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage


class Clients(NamedTuple):
    """What the clients keep."""

    private: Any
    """[C ...] parameters that never leave a client."""
    items: SparseTables | None
    """The rows that each client moved in its last round, if clients rank with them."""


class Download(NamedTuple):
    """What the server hands out, one table for all."""

    items: Num[Array, "I D"]
    """G."""
    before: Num[Array, "I D"]
    """G as the last round started from it."""


def serve(download: Download, upload: Sum) -> Download:
    """The server's step; the weights of the clients sum to 1."""
    table = from_storage(download.items) + upload.items
    return Download(to_storage(table, download.items.dtype), download.items)


def copies(tree: Any, layout: Layout) -> Any:
    """The same parameters for every client."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.padded, *leaf.shape)), tree)


def start(
    config: FedMF | PFedRec, layout: Layout, private: Any, table: Float[Array, "I D"]
) -> tuple[Clients, Download]:
    """Everybody starts from the same parameters; nobody has moved a row."""
    own, dtype = None, storage_dtype(config)
    if config.evaluated == "local":
        own = SparseTables.empty(layout, len(table), config.dim, dtype)
    table = to_storage(table, dtype)
    return Clients(copies(private, layout), own), Download(table, table)


def share_of(
    config: FedMF, samples: Int[Array, "*n"], total: Int[Array, ""], participants: int
) -> Float[Array, "*n"]:
    """A client's weight in the average, or those of several: its share of all samples of the round,
    or of the participants."""
    if config.weighting == "samples":
        return samples / total
    return jnp.full(samples.shape, 1 / participants)


def change(
    config: FedMF | PFedRec, private: Any, trained: Trained, sent: Contribution,
    table: Float[Array, "M D"],
) -> Change:  # fmt: skip
    """What a round changed at a client, which keeps its rows if it ranks with them."""
    own = {"private": private}
    if config.evaluated == "global":
        return Change(own, trained, sent=sent)
    return Change(own, trained, sent.rows, table, sent)


def scores(
    logits: Callable[[Any, Array], Array], clients: Clients, download: Download,
    ids: Int[Array, " B"], layout: Layout,
) -> Float[Array, "B I"]:  # fmt: skip
    """Logits of all items: by the new table if clients keep no rows of their own, else by their own
    rows over the table that the last round started from. (A client that sat out that round has the
    rows of its last one, which are all items if its size class has room for them; the released
    programs leave it all of its old table.)"""
    most_rows = max(size.rows for size in layout.classes)

    def one(id):
        private, own = tree_at(clients.private, id), clients.items
        if own is None:
            return logits(private, from_storage(download.items))
        items, table = own.of(id, most_rows)
        everywhere = logits(private, from_storage(download.before))
        return everywhere.at[items].set(logits(private, table), mode="drop")

    return jax.vmap(one)(ids)


def scratch(config: FedMF | PFedRec, layout: Layout, num_items: int, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once, the sum of what moved among them. Noise: that sum, the sum of
    the noises, and one client's noise with its bits."""
    numbers = training_scratch(layout, num_items, config.dim, block)
    numbers["train"] += num_items * config.dim
    if config.ldp_scale:
        numbers["noise"] = num_items * 4 * config.dim
    return numbers

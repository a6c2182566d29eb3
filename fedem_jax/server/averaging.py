"""An item table that is averaged and replaces every client's, without a table for each of them.

A client moves few rows, so the average is the old table plus the sum of what was moved. What a
client ranks with before its next download is the old table with its own rows on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from fedem_jax.config.settings import FedMF, PFedRec
from fedem_jax.core.algorithm import at_place, copies
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, RoundContext, Sum, Trained, training_scratch
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


def start(
    config: FedMF | PFedRec, layout: Layout, private: Any, table: Float[Array, "I D"]
) -> tuple[Clients, Download]:
    """Everybody starts from the same parameters; nobody has moved a row."""
    own, dtype = None, storage_dtype(config)
    if config.evaluated == "local":
        own = SparseTables.empty(layout, config.dim, dtype)
    table = to_storage(table, dtype)
    return Clients(copies(private, layout), own), Download(table, table)


Shares = Callable[[Int[Array, "*n"]], Float[Array, "*n"]]
"""`(samples) -> a_u`: the weight in the average of a client with so many samples."""


def shares_of(config: FedMF, context: RoundContext) -> Shares:
    """Weights of the round's participants: n_u / sum n, or 1 / P."""
    total = context.samples_of(context.participants).sum()

    def share(samples):
        if config.weighting == "samples":
            return samples / total
        return jnp.full(samples.shape, 1 / context.participants.shape[0])

    return share


def change(
    config: FedMF | PFedRec,
    private: Any,
    trained: Trained,
    sent: Contribution,
    table: Float[Array, "M D"],
) -> Change:
    """What a round changed at a client, which keeps its rows if it ranks with them."""
    own = {"private": private}
    if config.evaluated == "global":
        return Change(own, trained, sent=sent)
    return Change(own, trained, sent.rows, table, sent)


def nothing_sent(table: Num[Array, "I D"], rest: Any = ()) -> Sum:
    """The sum of uploads before anybody uploads."""
    return Sum(jnp.zeros(table.shape), jax.tree.map(jnp.zeros_like, rest))


def average(download: Download, upload: Sum) -> Download:
    """The server's step, G + sum_u a_u (Q_u - G); the weights of the clients sum to 1."""
    table = from_storage(download.items) + upload.items
    return Download(to_storage(table, download.items.dtype), download.items)


def scores(
    logits: Callable[[Any, Array], Array],
    clients: Clients,
    download: Download,
    places: Int[Array, " B"],
    layout: Layout,
) -> Float[Array, "B I"]:
    """Logits of all items: by the new table, or by a client's own rows over the table before it.

    A client that sat out the last round has the rows of the round before, which are all items if
    its size class has room for them. The released programs leave it all of its old table.

    Args:
        logits: `(private, rows) -> logits` of one client.
        clients: if they keep no rows, the new table counts.
        download: the tables.
        places: of the clients that are asked.
        layout: where the clients are.
    """
    most_rows = max(size.rows for size in layout.classes)

    def one(place):
        private, own = at_place(clients.private, place), clients.items
        if own is None:
            return logits(private, from_storage(download.items))
        items, table = own.gather(place, most_rows)
        everywhere = logits(private, from_storage(download.before))
        return everywhere.at[items].set(logits(private, table), mode="drop")

    return jax.vmap(one)(places)


def scratch(config: FedMF | PFedRec, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once, the sum of what moved among them.

    noise: that sum, the sum of the noises, and one client's noise with its bits.
    """
    numbers = training_scratch(layout, config.dim, block)
    numbers["train"] += layout.num_items * config.dim
    if config.ldp_scale:
        numbers["noise"] = layout.num_items * 4 * config.dim
    return numbers

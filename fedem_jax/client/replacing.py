"""A client whose item table is replaced by a common one in every round.

It moves few rows. Before its next download it ranks with the old common table, with its own rows on
top. So it keeps no table of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from fedem_jax.client.fitting import visits
from fedem_jax.client.masking import key_bytes
from fedem_jax.config.settings import FedMF, PFedRec
from fedem_jax.core.algorithm import Traffic, at_place, copies
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, Trained, training_scratch
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes


class Clients(NamedTuple):
    """What the clients keep."""

    private: Any
    """[C ...] parameters that never leave a client."""
    items: SparseTables | None
    """The rows that each client moved in its last round, if clients rank with them."""


def start(config: FedMF | PFedRec, layout: Layout, private: Any) -> Clients:
    """Everybody starts from the same parameters; nobody has moved a row."""
    own = None
    if config.evaluated == "local":
        own = SparseTables.empty(layout, config.dim, storage_dtype(config))
    return Clients(copies(private, layout), own)


def change(
    config: FedMF | PFedRec,
    private: Any,
    trained: Trained,
    sent: Contribution,
    table: Float[Array, "M D"],
) -> Change:
    """What a round changed at a client, which keeps its rows if it ranks with them.

    Args:
        config: whose table clients rank with.
        private: the client's new parameters.
        trained: of its local epochs.
        sent: what it adds to the upload.
        table: its rows after training.
    """
    fields = {"private": private}
    if config.evaluated == "global":
        return Change(fields, trained, sent=sent)
    return Change(fields, trained, sent.rows, table, sent)


def scores(
    logits: Callable[[Any, Array], Array],
    clients: Clients,
    server: Any,
    places: Int[Array, " B"],
    layout: Layout,
) -> Float[Array, "B I"]:
    """Logits of all items: by the new table, or by a client's own rows over the table before it.

    A client that sat out keeps its rows of the round before. The released programs keep its whole
    old table.

    Args:
        logits: `(private, rows) -> logits` of one client.
        clients: if they keep no rows, the new table counts.
        server: its tables, `items` and `before`.
        places: of the clients that are asked.
        layout: where the clients are.
    """
    most_rows = max(size.rows for size in layout.classes)

    def one(place):
        private, own = at_place(clients.private, place), clients.items
        if own is None:
            return logits(private, from_storage(server.items))
        items, table = own.gather(place, most_rows)
        everywhere = logits(private, from_storage(server.before))
        return everywhere.at[items].set(logits(private, table), mode="drop")

    return jax.vmap(one)(places)


def item_tables(
    clients: Clients, server: Any, places: Int[Array, " B"], layout: Layout
) -> Float[Array, "B I D"]:
    """The tables that `scores` ranks with; the arguments are the same."""
    most_rows = max(size.rows for size in layout.classes)

    def one(place):
        if clients.items is None:
            return from_storage(server.items)
        items, rows = clients.items.gather(place, most_rows)
        return from_storage(server.before).at[items].set(rows, mode="drop")

    return jax.vmap(one)(places)


def traffic(config: FedMF | PFedRec, layout: Layout, up: int = 0, down: int = 0) -> Traffic:
    """Bytes of a round: a table down for each participant, and one up for each upload that arrives.
    Masked tables have 4 bytes a number, and need public keys.

    Args:
        config: sizes, and whether uploads are masked.
        layout: where the clients are.
        up, down: bytes beside a table.
    """
    participants, arrived = config.round_sizes(layout.num_clients)
    table = table_bytes(config, layout.num_items)
    sent = 4 * layout.num_items * config.dim if config.secure_sum else table
    keys_up, keys_down = key_bytes(config, participants)
    return Traffic(
        up=arrived * (sent + up) + keys_up, down=participants * (table + down) + keys_down
    )


def scratch(config: FedMF | PFedRec, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once, the sum of what moved among them.

    noise: that sum, the sum of the noises, and one client's noise with its bits.
    masks: that sum, the sum of the masks, one client's masks, and one of them.
    """
    kept = {"visits": visits(config), "pairs": config.pairs}
    numbers = training_scratch(layout, config.dim, block, **kept)
    numbers["train"] += layout.num_items * config.dim
    if config.ldp_scale:
        numbers["noise"] = layout.num_items * 4 * config.dim
    if config.secure_sum:
        numbers["masks"] = layout.num_items * 4 * config.dim
    return numbers

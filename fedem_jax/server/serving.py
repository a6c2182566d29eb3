"""Serving some of the clients: a table of its own waits for each of them, for one round.

A client that sits that round out loses it.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from fedem_jax.core.layout import Layout

NOT_SERVED = -1
"""Slot of a client that no table waits for."""


def slots(
    layout: Layout,
    clients: Int[Array, " A"],
    num_tables: int,
    table: Int[Array, " A"] | None = None,
) -> Int[Array, " padded"]:
    """Row of the server's tables that waits at each place.

    Args:
        layout: places of the clients.
        clients: those that are served.
        num_tables: number of tables.
        table: row for each client; None: in their order, and where there are fewer tables, in turn.
    """
    if table is None:
        table = jnp.arange(clients.shape[0], dtype=jnp.int32) % num_tables
    nobody = jnp.full(layout.padded, NOT_SERVED, jnp.int32)
    return nobody.at[layout.places(clients)].set(table)


def waits(slot: Int[Array, "*C"]) -> Bool[Array, "*C"]:
    """Whether a table waits for a client."""
    return slot != NOT_SERVED


def served(clients: Any) -> Bool[Array, " C"]:
    """Clients that a table waits for, by their field `slot`; the mask of a phase."""
    return waits(clients.slot)


def not_served(clients: Any) -> Bool[Array, " C"]:
    """Clients that go on with their own tables."""
    return ~waits(clients.slot)

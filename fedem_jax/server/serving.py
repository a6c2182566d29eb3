"""Serving some of the clients: each gets a table of its own, which waits until it trains next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.core.blocks import over_trials
from fedem_jax.core.layout import Layout

NOT_SERVED = -1
"""Slot of a client that no table waits for."""


def slots(layout: Layout, clients: Int[Array, " A"], num_tables: int) -> Int[Array, " padded"]:
    """Row of the server's tables that waits at each place.

    The clients get the tables in their order; where there are fewer tables, in turn.
    """
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


def taken_up(
    slot: Int[Array, " B"],
    rows: Float[Array, "B I D"],
    take_up: Callable[[Float[Array, "B I D"]], Float[Array, "B I D"]],
) -> Float[Array, "B I D"]:
    """The tables of clients as they would use them now.

    Args:
        slot: what waits for each.
        rows: their own tables.
        take_up: their own tables with the waiting ones taken up; not computed if nothing waits.
    """

    def mixed(rows):
        return jnp.where(waits(slot)[:, None, None], take_up(rows), rows)

    any_waits = over_trials(waits(slot).any().astype(jnp.int32))
    return lax.cond(any_waits > 0, mixed, lambda rows: rows, rows)

"""Serving some of the clients: a table waits for each of them, for one round.

A client that sits that round out loses it. On several devices each holds the tables that wait for
its own clients alone, if every client has one of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from fedem_jax.config.base import Config
from fedem_jax.core.layout import Layout, PerDevice

NOT_SERVED = -1
"""Slot of a client that no table waits for."""


def divides(config: Config, layout: Layout) -> bool:
    """Whether each device holds the tables of its own clients alone.

    With `client_memory=host` clients change devices, so every device holds all tables.
    """
    return layout.mesh.size > 1 and not config.clients_on_host


def first_tables(
    config: Config, layout: Layout, served: int, table: tuple[int, ...], dtype: Any
) -> Any:
    """Zeros in place of the tables that wait, one for each served client.

    Args:
        config: says where the clients are.
        layout: the devices. Each may hold all the clients that are served.
        served: how many there are.
        table: shape of a table, [I D].
        dtype: of what is stored.
    """
    if not divides(config, layout):
        return jnp.zeros((served, *table), dtype)
    on_device = min(served, layout.shard)
    return PerDevice(jnp.zeros((layout.mesh.size * on_device, *table), dtype))


def rows_of(config: Config, layout: Layout, clients: Int[Array, " A"]) -> Int[Array, " A"]:
    """Row of the table of each served client, among those that its device holds."""
    if not divides(config, layout):
        return jnp.arange(clients.shape[0], dtype=jnp.int32)
    _, row = device_and_row(layout, clients)
    return row


def device_and_row(
    layout: Layout, clients: Int[Array, " A"]
) -> tuple[Int[Array, " A"], Int[Array, " A"]]:
    """The device of each client, and how many of these clients before it are there too."""
    device = layout.places(clients) // layout.shard
    there = jax.nn.one_hot(device, layout.mesh.size, dtype=jnp.int32)
    return device, (jnp.cumsum(there, axis=0) - 1)[jnp.arange(clients.shape[0]), device]


def slots(
    layout: Layout, clients: Int[Array, " A"], rows: Int[Array, " A"]
) -> Int[Array, " padded"]:
    """Row of the server's tables that waits at each place; -1: none.

    Args:
        layout: places of the clients.
        clients: those that are served.
        rows: of their tables.
    """
    nobody = jnp.full(layout.padded, NOT_SERVED, jnp.int32)
    return nobody.at[layout.places(clients)].set(rows)


def waits(slot: Int[Array, "*C"]) -> Bool[Array, "*C"]:
    """Whether a table waits for a client."""
    return slot != NOT_SERVED


def served(clients: Any) -> Bool[Array, " C"]:
    """Clients that a table waits for, by their field `slot`; the mask of a phase."""
    return waits(clients.slot)


def not_served(clients: Any) -> Bool[Array, " C"]:
    """Clients that go on with their own tables."""
    return ~waits(clients.slot)

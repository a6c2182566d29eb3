"""The clients' state on the host, in NumPy arrays, and copies of the rows of some clients.

The arrays are those of the same state on the devices, in order of place. Item tables are kept as
`MovedRows`. Rows that clients keep over a common table (`SparseTables`) are a ragged list there. In
a copy each client has room for as many rows as any client keeps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from fedem_jax.core.layout import Layout
from fedem_jax.core.moved_rows import MovedRows
from fedem_jax.core.sparse_tables import SparseTables, is_sparse

Places = Int[np.ndarray, " n"]
"""Places of clients in the layout of all; `Layout.padded`: none."""


def most_rows(layout: Layout) -> int:
    """Room for rows over a common table, of each client in a copy."""
    return max(size.rows for size in layout.classes)


def empty(shapes: Any, rows: Any, layout: Layout) -> Any:
    """Room on the host for the state of all clients.

    Args:
        shapes: of that state.
        rows: the state of some clients before the first round.
        layout: of all clients.
    """

    def room(shape: Any, some: Any) -> Any:
        if is_sparse(shape):
            return SparseTables.empty(layout, shape.table.shape[1], shape.table.dtype, np)
        if is_item_table(shape, layout):
            return MovedRows(np.array(some[0]), len(layout.client))
        return np.empty(shape.shape, shape.dtype)

    return jax.tree.map(room, shapes, rows, is_leaf=is_sparse)


def is_item_table(leaf: Any, layout: Layout) -> bool:
    """Whether an array, or its shape, is an item table for each client: [C I D]."""
    return len(leaf.shape) == 3 and leaf.shape[1] == layout.num_items


def without_tables(clients: Any) -> Any:
    """The state of the clients but for their item tables, so that JAX can take it."""
    return jax.tree.map(lambda leaf: None if isinstance(leaf, MovedRows) else leaf, clients)


def taken(clients: Any, places: Places, layout: Layout) -> Any:
    """Copies of the rows of some clients. Where there is no client, they mean nothing.

    Args:
        clients: of all, on the host.
        places: of those clients; each device has an equal part of them.
        layout: of all clients.
    """

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, SparseTables):
            return leaf[np.minimum(places, layout.padded - 1)]
        entry, used = _entries(leaf, places, layout)
        devices, room = layout.mesh.size, entry.shape[1]
        start: Any = np.tile(np.arange(len(places) // devices, dtype=np.int32) * room, devices)
        items = leaf.items.take(entry.ravel(), mode="clip")
        table = leaf.table.take(entry.ravel(), axis=0, mode="clip")
        items[~used.ravel()], table[~used.ravel()] = layout.num_items, 0
        count: Any = used.sum(axis=1, dtype=np.int32)
        return SparseTables(start, count, items, table)

    return jax.tree.map(rows, clients, is_leaf=is_sparse)


def put(clients: Any, places: Places, rows: Any, layout: Layout) -> None:
    """Write rows, as `taken` gives them, into the arrays of all clients."""
    present = places < layout.padded

    def write(leaf: Any, new: Any) -> None:
        if not isinstance(leaf, SparseTables):
            leaf[places[present]] = np.asarray(new)[present]
            return
        entry, used = _entries(leaf, places, layout)
        leaf.items[entry[used]] = np.asarray(new.items)[used.ravel()]
        leaf.table[entry[used]] = np.asarray(new.table)[used.ravel()]

    jax.tree.map(write, clients, rows, is_leaf=is_sparse)


def shapes_of_rows(clients: Any, number: int, layout: Layout) -> Any:
    """Shapes and types of the rows of so many clients, as `taken` gives them.

    Args:
        clients: of all, or their shapes.
        number: how many.
        layout: of all clients.
    """

    def shape(leaf: Any, rows: int = number) -> Any:
        return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, SparseTables):
            return shape(leaf)
        room = number * most_rows(layout)
        items, table = shape(leaf.items, room), shape(leaf.table, room)
        return SparseTables(shape(leaf.start), shape(leaf.count), items, table)

    return jax.tree.map(of, clients, is_leaf=is_sparse)


def kept_on_device(new: Any, before: Any, place: Int[Array, " n"]) -> Any:
    """Rows of the residents of one device, with those of clients that were there before.

    Only those rows move: one client after the other is written into the memory of `new`.

    Args:
        new: rows that came from the host.
        before: rows of the residents before.
        place: their place then; n: they were not there.
    """
    number = len(place)

    def by_client(leaf: Array) -> Array:
        if len(leaf) == number:
            return leaf
        return leaf.reshape(number, len(leaf) // number, *leaf.shape[1:])

    def moved(rows: Any) -> list[Array]:
        """Without where a client's rows over a common table start, which is by its place."""
        parts = jax.tree.leaves(rows, is_leaf=is_sparse)
        leaves = jax.tree.leaves([part[2:] if is_sparse(part) else part for part in parts])
        return [by_client(leaf) for leaf in leaves]

    old, (stayed,) = moved(before), jnp.nonzero(place < number, size=number)

    def keep(turn, rows):
        here = stayed[turn]
        there = [lax.dynamic_index_in_dim(leaf, place[here]) for leaf in old]
        return [
            lax.dynamic_update_slice_in_dim(leaf, row, here, axis=0)
            for leaf, row in zip(rows, there, strict=True)
        ]

    kept = iter(lax.fori_loop(0, (place < number).sum(), keep, moved(new)))

    def put_back(leaf: Any) -> Any:
        if not is_sparse(leaf):
            return next(kept).reshape(leaf.shape)
        items, table = (next(kept).reshape(part.shape) for part in leaf[2:])
        return leaf._replace(items=items, table=table)

    return jax.tree.map(put_back, new, is_leaf=is_sparse)


def _entries(
    tables: SparseTables, places: Places, layout: Layout
) -> tuple[Int[np.ndarray, "n M"], Bool[np.ndarray, "n M"]]:
    """Entries of the clients in the ragged list of all devices, and which of them are theirs."""
    somewhere = np.minimum(places, layout.padded - 1)
    start = tables.first_entries(somewhere, layout.shard)
    count = np.where(places < layout.padded, np.asarray(tables.count)[somewhere], 0)
    row = np.arange(most_rows(layout))
    return start[:, None] + row[None, :], row[None, :] < count[:, None]

"""Item tables that are kept sparse: the rows that a client moved, over a table that all share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from fedem_jax.core.layout import Layout
from fedem_jax.core.table_storage import from_storage, to_storage


class SparseTables(NamedTuple):
    """The rows that each client moved in its last round, one client after the other.

    All other rows of a client's table are those of the downloaded one.
    """

    start: Int[Array, " C"]
    """First entry of each client, counted from the first one of its device."""
    count: Int[Array, " C"]
    """Entries of each client: the rows of its size class."""
    items: Int[Array, " R"]
    """Item of each entry; I: not in use."""
    table: Num[Array, "R D"]
    """Row of each entry."""

    @classmethod
    def empty(cls, layout: Layout, dim: int, dtype: Any, numpy: Any = jnp) -> SparseTables:
        """Nobody has moved a row yet.

        Args:
            layout: size classes of the clients.
            dim: D.
            dtype: of the rows.
            numpy: what makes the arrays: `jax.numpy`, or NumPy for arrays on the host.
        """
        count = np.zeros((layout.mesh.size, layout.shard), np.int32)
        for size in layout.classes:
            for device, members in enumerate(size.members):
                count[device, members[members < layout.shard]] = size.rows
        start = np.cumsum(count, axis=1) - count
        entries = layout.mesh.size * int(count.sum(axis=1).max())
        return cls(
            numpy.asarray(start.ravel(), np.int32),
            numpy.asarray(count.ravel()),
            numpy.full(entries, layout.num_items, np.int32),
            numpy.zeros((entries, dim), dtype),
        )

    def scatter(
        self, places: Int[Array, " B"], rows: Int[Array, "B M"], table: Float[Array, "B M D"]
    ) -> SparseTables:
        """The same with new rows of a block of clients; places one past the last are dropped."""
        nowhere = len(self.items)
        start = self.start.at[places].get(mode="fill", fill_value=nowhere)
        entry = start[:, None] + jnp.arange(rows.shape[1], dtype=jnp.int32)[None, :]
        return self._replace(
            items=self.items.at[entry].set(rows, mode="drop"),
            table=self.table.at[entry].set(to_storage(table, self.table.dtype), mode="drop"),
        )

    def gather(
        self, place: Int[Array, ""], most: int
    ) -> tuple[Int[Array, " M"], Float[Array, "M D"]]:
        """One client's items and rows in an array of `most`; an item beyond all where there is
        none."""
        index = jnp.arange(most, dtype=jnp.int32)
        entry = jnp.where(index < self.count[place], self.start[place] + index, len(self.items))
        items = self.items.at[entry].get(mode="fill", fill_value=jnp.iinfo(jnp.int32).max)
        return items, from_storage(self.table.at[entry].get(mode="fill", fill_value=0))

    def first_entries(self, places: Int[np.ndarray, " n"], shard: int) -> Int[np.ndarray, " n"]:
        """First entry of some clients in the arrays of all devices, on the host.

        Args:
            places: of the clients.
            shard: places of each device.
        """
        start = np.asarray(self.start)
        of_device = len(self.items) // (len(start) // shard)
        return start[places] + places // shard * of_device


def is_sparse(leaf: Any) -> bool:
    """Whether a part of a state is such tables: where `jax.tree` stops, as `is_leaf`."""
    return isinstance(leaf, SparseTables)

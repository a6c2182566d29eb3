"""What a client keeps of its item table where the rest is the downloaded one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from fedem_jax.core.layout import Layout
from fedem_jax.core.table_storage import from_storage, to_storage


class SparseTables(NamedTuple):
    """The rows that each client moved in its last round, and no others: what a client keeps where
    the rest of its table is the downloaded one. Stored one client after the other."""

    start: Int[Array, " C"]
    """First place of each client, counted from the first one of its device."""
    count: Int[Array, " C"]
    """Places of each client: the rows of its size class."""
    items: Int[Array, " R"]
    """Item of each place; I: not in use."""
    table: Num[Array, "R D"]

    @classmethod
    def empty(cls, layout: Layout, num_items: int, dim: int, dtype: Any) -> SparseTables:
        """Nobody has moved a row yet."""
        count = np.zeros((layout.mesh.size, layout.shard), np.int32)
        for size in layout.classes:
            for device, members in enumerate(size.members):
                count[device, members[members < layout.shard]] = size.rows
        start = np.cumsum(count, axis=1) - count
        places = layout.mesh.size * int(count.sum(axis=1).max())
        return cls(
            jnp.asarray(start.ravel(), jnp.int32),
            jnp.asarray(count.ravel()),
            jnp.full(places, num_items, jnp.int32),
            jnp.zeros((places, dim), dtype),
        )

    def put(self, ids: Int[Array, " B"], rows: Int[Array, "B M"], table: Float[Array, "B M D"]):
        """The rows of a block of clients; ids one past the last are dropped."""
        nowhere = len(self.items)
        start = self.start.at[ids].get(mode="fill", fill_value=nowhere)
        place = start[:, None] + jnp.arange(rows.shape[1], dtype=jnp.int32)[None, :]
        return self._replace(
            items=self.items.at[place].set(rows, mode="drop"),
            table=self.table.at[place].set(to_storage(table, self.table.dtype), mode="drop"),
        )

    def of(self, id: Int[Array, ""], most: int) -> tuple[Int[Array, " M"], Float[Array, "M D"]]:
        """One client's items and rows in `most` places; I where there is none."""
        index = jnp.arange(most, dtype=jnp.int32)
        place = jnp.where(index < self.count[id], self.start[id] + index, len(self.items))
        items = self.items.at[place].get(mode="fill", fill_value=jnp.iinfo(jnp.int32).max)
        return items, from_storage(self.table.at[place].get(mode="fill", fill_value=0))

"""Item tables of clients on the host, of which each keeps the rows that differ from a first table.

Where few clients train in a round, most tables are still what all clients started from in most
rows. Nothing is rounded: a row is left out if it has the same bits.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from jaxtyping import Int, Num, UInt

PARTS = ("first", "count", "items", "rows")
"""Names of what `MovedRows.parts` returns."""


class MovedRows:
    """The tables [C I D] of clients. It is indexed like an array, by places of clients first, and
    gives and takes whole tables."""

    def __init__(self, first: Num[np.ndarray, "I D"], number: int):
        """Tables that are all the same.

        Args:
            first: that table.
            number: C.
        """
        self.first, self.dtype = first, first.dtype
        self.shape = (number, *first.shape)
        self._every = np.arange(len(first), dtype=np.int32)
        # items and rows of each client; they are replaced, never changed, so copies may share them
        self._moved = [(self._every[:0], first[:0])] * number

    @classmethod
    def of(cls, parts: dict[str, np.ndarray]) -> MovedRows:
        """Tables of what `parts` returned."""
        first, count, items, rows = (np.asarray(parts[name]) for name in PARTS)
        tables, ends = cls(first, len(count)), np.cumsum(count)[:-1]
        tables._moved = list(zip(np.split(items, ends), np.split(rows, ends), strict=True))
        return tables

    def parts(self) -> dict[str, np.ndarray]:
        """The first table, and a ragged list: the number of moved rows of each client, their items,
        and the rows."""
        items, rows = zip(*self._moved, strict=True)
        count = np.array([len(each) for each in items], np.int32)
        arrays = self.first, count, np.concatenate(items), np.concatenate(rows)
        return dict(zip(PARTS, arrays, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of the first table, and of all moved rows with their items."""
        return self.first.nbytes + sum(part.nbytes for pair in self._moved for part in pair)

    def __len__(self) -> int:
        return len(self._moved)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Whole tables of some clients, or parts of these by the slices that follow."""
        places, *others = index if isinstance(index, tuple) else (index,)
        moved = [self._moved[place] for place in self._places(places)]
        tables = np.empty((len(moved), *self.first.shape), self.dtype)
        tables[...] = self.first
        for table, (items, rows) in zip(tables, moved, strict=True):
            table[items] = rows
        return tables[:, *others] if others else tables

    def __setitem__(self, places: Any, tables: Any) -> None:
        """Take whole tables of some clients, or one for all of them."""
        places = self._places(places)
        tables = np.broadcast_to(tables, (len(places), *self.first.shape))
        for place, table in zip(places, tables, strict=True):
            items = np.flatnonzero((_bits(table) != _bits(self.first)).any(axis=1))
            items = self._every if len(items) == len(table) else items.astype(np.int32)
            self._moved[place] = items, table[items]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def copy(self) -> MovedRows:
        """The same tables, which stay when rows are written into these."""
        tables = copy.copy(self)
        tables._moved = [*self._moved]
        return tables

    def _places(self, places: Any) -> Int[np.ndarray, " n"]:
        return np.arange(len(self))[places]


def _bits(rows: Num[np.ndarray, "I D"]) -> UInt[np.ndarray, "I D"]:
    """The numbers as integers: so -0 differs from 0, and a NaN is equal to itself."""
    return rows.view(f"u{rows.dtype.itemsize}")

"""The ragged lists of a federation on the device: training positives and barred items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import lax
from jaxtyping import Array, Int

from fedem_jax.core.layout import Layout
from fedem_jax.core.processes import on_all
from fedem_jax.data.federation import Federation


class Lists(NamedTuple):
    """Training positives and barred items of all clients, each a ragged list stored flat."""

    offsets: Int[Array, "C+2"]
    items: Int[Array, " nnz"]
    barred_offsets: Int[Array, "C+2"]
    barred: Int[Array, " barred"]

    def positives(self, client, capacity: int) -> tuple[Int[Array, " n"], Int[Array, ""]]:
        """Training positives of one client in `capacity` places, and how many they are."""
        return _entries(self.offsets, self.items, client, capacity)

    def barred_items(self, client, capacity: int) -> tuple[Int[Array, " n"], Int[Array, ""]]:
        """Sorted barred items of one client in `capacity` places, and how many they are."""
        return _entries(self.barred_offsets, self.barred, client, capacity)


def _entries(offsets, values, client, capacity: int):
    start = offsets[client]
    return lax.dynamic_slice_in_dim(values, start, capacity), offsets[client + 1] - start


def lists_on_device(federation: Federation, layout: Layout) -> Lists:
    """The ragged lists, padded so that a class's worth can be read from any client's start."""
    room = max(max(size.positives, size.barred) for size in layout.classes)

    def offsets(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, layout.padded - layout.num_clients + 1), mode="edge").astype(
            np.int32
        )

    def flat(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, room)).astype(np.int32)

    lists = (
        offsets(federation.offsets),
        flat(federation.items),
        offsets(federation.barred_offsets),
        flat(federation.barred),
    )
    return Lists(*on_all(lists, layout.replicated()))

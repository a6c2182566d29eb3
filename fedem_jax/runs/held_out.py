"""Held-out items of a federation, laid out over the devices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedem_jax.core.layout import Layout
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.ranking import HeldOut, HeldOutPart


class Room(NamedTuple):
    """Most held-out items on one device, for validation and for test."""

    val: int
    test: int

    @classmethod
    def of(cls, federation: Federation, layout: Layout) -> Room:
        """The room that a federation needs."""
        device = layout.place // layout.shard
        return cls(*(
            int(np.bincount(device, np.diff(offsets)).max())
            for offsets in (federation.val_offsets, federation.test_offsets)
        ))  # fmt: skip


def held_out(
    federation: Federation, layout: Layout, room: Room | None = None
) -> tuple[HeldOut, tuple[np.ndarray, np.ndarray]]:
    """The held-out items in order of place, still on the host.

    Args:
        federation: the data.
        layout: places of the clients.
        room: rows on each device; None: as few as the federation needs.

    Returns:
        the items, and the row of each validation item and of each test item of the federation.
    """
    room = room or Room.of(federation, layout)
    val, val_rows = _part(
        layout, federation.val_offsets, federation.val_item, federation.val_candidates, room.val
    )
    test, test_rows = _part(
        layout, federation.test_offsets, federation.test_item, federation.test_candidates, room.test
    )
    return HeldOut(val, test), (val_rows, test_rows)


def most_held_out(federation: Federation) -> int:
    """Most held-out items of a client in a part."""
    ends = federation.val_offsets, federation.test_offsets
    return max(int(np.diff(offsets).max()) for offsets in ends)


def _part(
    layout: Layout, offsets: np.ndarray, items: np.ndarray, candidates: np.ndarray, room: int
) -> tuple[HeldOutPart, np.ndarray]:
    sizes, device = np.diff(offsets), layout.place // layout.shard
    by_place = np.argsort(layout.place)
    start = np.zeros_like(sizes)
    start[by_place] = np.cumsum(sizes[by_place]) - sizes[by_place]
    on_earlier = np.cumsum(np.bincount(device, sizes, layout.mesh.size)).astype(int)
    start -= np.concatenate([[0], on_earlier])[device]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rows = device[owner] * room + start[owner] + np.arange(len(items)) - offsets[owner]

    def placed(values: np.ndarray, empty: int = 0) -> Any:
        at_rows = np.full((layout.mesh.size * room, *values.shape[1:]), empty, np.int32)
        at_rows[rows] = values
        return at_rows

    spread: list[Any] = [layout.spread(start), layout.spread(sizes)]
    part = HeldOutPart(
        *spread,
        owner=placed(layout.place[owner], layout.padded),
        item=placed(items),
        candidates=placed(candidates),
    )
    return part, rows

"""The clients of a federation on the device: ragged lists, size classes, blocks, shards.

Sizes vary a hundredfold, so clients are never padded to the largest: each belongs to the smallest
size class that holds its training positives, and a class is worked through block after block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int

from fedem_jax.data.federation import Federation

AXIS = "clients"
"""Mesh axis that the client axis is sharded over."""
BLOCK = "block"
"""Name of the mapped axis inside a block of clients."""

Carry = TypeVar("Carry")


class Lists(NamedTuple):
    """Training positives and barred items of all clients, each a ragged list stored flat."""

    offsets: Int[Array, "C+1"]
    items: Int[Array, " nnz"]
    barred_offsets: Int[Array, "C+1"]
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


class SizeClass(NamedTuple):
    """Clients that are worked on in arrays of one shape."""

    positives: int
    """Places for training positives: what the largest member has."""
    barred: int
    """Places for barred items."""
    members: Int[np.ndarray, "devices n"]
    """Clients of each device, counted from its first one, in order of size; padded with `shard`."""


class Layout(NamedTuple):
    """How the clients are laid out: over devices, size classes and blocks."""

    mesh: Mesh
    number: int
    """C: clients of the federation."""
    shard: int
    """Clients per device; the last device may be padded with clients that never take part."""
    classes: tuple[SizeClass, ...]
    coarse: tuple[SizeClass, ...]
    """Half as many classes, for work that few clients do: each class is compiled once more."""
    block: int
    """Clients worked on side by side."""

    @property
    def padded(self) -> int:
        """Length of the client axis: a multiple of the number of devices."""
        return self.shard * self.mesh.size

    def width(self, places: int) -> int:
        """Clients side by side in a class of so many places: even blocks, none above `block`."""
        return -(-places // -(-places // self.block))

    def sharded(self) -> NamedSharding:
        """Sharding of arrays that have the client axis first."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def on_each_device(self, work: Callable[..., Any], clients, server, *others) -> Any:
        """`work(clients, server, *others)` on every device: its own part of whatever has the client
        axis first (all arguments and results), and the whole of `server`."""
        own, whole = PartitionSpec(AXIS), PartitionSpec()
        specs = (own, whole) + (own,) * len(others)
        mapped = jax.shard_map(work, mesh=self.mesh, in_specs=specs, out_specs=own, check_vma=False)
        return mapped(clients, server, *others)


def lay_out(
    federation: Federation,
    cost: Callable[[np.ndarray, int], np.ndarray],
    *,
    devices: Sequence[Any],
    num_classes: int,
    block: int,
) -> Layout:
    """Shard the clients over `devices` and sort them into at most `num_classes` size classes.

    `cost(sizes, capacity)` is the work of clients of these sizes in arrays for `capacity`
    positives; the classes are those of the least total work.
    """
    shard = -(-federation.num_clients // len(devices))
    classes, coarse = (
        _classes(federation, cost, shard, len(devices), most)
        for most in (num_classes, -(-num_classes // 2))
    )
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return Layout(mesh, federation.num_clients, shard, classes, coarse, block)


def _classes(federation, cost, shard: int, devices: int, most: int) -> tuple[SizeClass, ...]:
    sizes, barred = np.diff(federation.offsets), np.diff(federation.barred_offsets)
    capacities = best_capacities(sizes, cost, most)
    class_of = np.searchsorted(capacities, sizes)
    by_size = np.argsort(sizes, kind="stable")
    classes = []
    for index, capacity in enumerate(capacities):
        inside = by_size[class_of[by_size] == index]
        of_device = [inside[inside // shard == d] - d * shard for d in range(devices)]
        members = np.full((devices, max(map(len, of_device))), shard, np.int32)
        for row, clients in zip(members, of_device, strict=True):
            row[: len(clients)] = clients
        classes.append(SizeClass(int(capacity), int(barred[inside].max()), members))
    return tuple(classes)


def best_capacities(
    sizes: np.ndarray, cost: Callable[[np.ndarray, int], np.ndarray], most: int
) -> np.ndarray:
    """Rising capacities of at most `most` classes that hold all sizes at the least total cost.

    Dynamic programming over the distinct sizes: the best way to cover the smallest ones with k
    classes ends in one class after the best way to cover fewer with k - 1.
    """
    distinct, counts = np.unique(sizes, return_counts=True)
    per_class = np.stack([counts * cost(distinct, int(capacity)) for capacity in distinct])
    up_to = np.concatenate([np.zeros((len(distinct), 1)), np.cumsum(per_class, axis=1)], axis=1)
    reached = np.arange(len(distinct))
    # closing[j, i]: cost of one class of capacity distinct[j] that holds distinct[i .. j]
    closing = up_to[reached, reached + 1][:, None] - up_to[:, :-1]
    closing[reached[:, None] < reached[None, :]] = np.inf
    best, choices = closing[:, 0].copy(), [np.zeros(len(distinct), int)]
    for _ in range(1, min(most, len(distinct))):
        before = np.concatenate([[0.0], best[:-1]])
        totals = before[None, :] + closing
        choices.append(totals.argmin(axis=1))
        best = totals.min(axis=1)
    ends, last = [], len(distinct) - 1
    for choice in reversed(choices):
        ends.append(last)
        last = choice[last] - 1
        if last < 0:
            break
    return distinct[ends[::-1]]


def lists_on_device(federation: Federation, layout: Layout) -> Lists:
    """The ragged lists, padded so that a class's worth can be read from any client's start."""
    room = max(max(size.positives, size.barred) for size in layout.classes)

    def offsets(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, layout.padded - layout.number), mode="edge").astype(np.int32)

    def flat(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, room)).astype(np.int32)

    lists = (
        offsets(federation.offsets),
        flat(federation.items),
        offsets(federation.barred_offsets),
        flat(federation.barred),
    )
    return Lists(*jax.device_put(lists, layout.replicated()))


def for_each_block(
    work: Callable[[SizeClass, Int[Array, " B"], Carry], Carry],
    carry: Carry,
    chosen: Bool[Array, " shard"],
    classes: Sequence[SizeClass],
    members: Sequence[Int[Array, "1 _"]],
    layout: Layout,
) -> Carry:
    """Fold `work(size_class, clients, carry)` over blocks of the chosen clients of one device.

    `members` are those of the classes on this device. `clients` counts from the device's first
    one; places that no client fills hold `shard`, one past the last, so that reads are clipped and
    writes dropped. Only as many blocks run as the chosen clients need.
    """
    padded = jnp.concatenate([chosen, jnp.zeros(1, bool)])
    for size_class, (candidates,) in zip(classes, members, strict=True):
        wanted = padded[candidates]
        width = layout.width(candidates.shape[0])
        room = -(-candidates.shape[0] // width) * width
        place = jnp.where(wanted, jnp.cumsum(wanted) - 1, room)
        queue = jnp.full(room, layout.shard, jnp.int32).at[place].set(candidates, mode="drop")

        def block(b, carry, queue=queue, size_class=size_class, width=width):
            clients = lax.dynamic_slice_in_dim(queue, b * width, width)
            return work(size_class, clients, carry)

        carry = lax.fori_loop(0, -(-wanted.sum() // width), block, carry)
    return carry

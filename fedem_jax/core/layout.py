"""The clients of a federation on the device: ragged lists, size classes, blocks, shards.

Sizes vary a hundredfold, so clients are never padded to the largest. Each belongs to the smallest
size class that holds its training positives. A class is worked through block after block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from fedem_jax.core.processes import own_device

AXIS = "clients"
"""Mesh axis that the client axis is sharded over."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerDevice:
    """An array of the server of which each device has rows of its own, and no others."""

    rows: Any
    """[devices * n ...] device after device; inside `Layout.on_each_device`: [n ...] of it."""

    def __getitem__(self, index: Any) -> Any:
        """Rows of the device."""
        return self.rows[index]


def specs_of_server(server: Any) -> Any:
    """How the arrays of the server are divided over the devices."""
    own, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.tree.map(
        lambda leaf: own if is_per_device(leaf) else whole, server, is_leaf=is_per_device
    )


def is_per_device(leaf: Any) -> bool:
    """Whether it is an array of which each device has rows of its own; for `jax.tree` functions."""
    return isinstance(leaf, PerDevice)


class SizeClass(NamedTuple):
    """Clients that are worked on in arrays of one shape."""

    positives: int
    """Room for training positives: what the largest member has."""
    barred: int
    """Room for barred items, which are never drawn as the client's negatives."""
    rows: int
    """Rows of the compact table, M: no member's samples touch more items."""
    members: Int[np.ndarray, "devices n"]
    """Places of each device, counted from its first one, in rising or falling order of size; padded
    with `shard`."""


class Layout(NamedTuple):
    """How the clients are laid out: over devices, size classes and blocks.

    A place is a position on the client axis of an array; inside `on_each_device` it counts from the
    device's first one. On one device the places have the order of the federation. Several devices
    are dealt the clients in order of size, so that all have about the same work.
    """

    mesh: Mesh
    num_clients: int
    """C: clients of the federation."""
    num_items: int
    """I: items of the federation."""
    shard: int
    """Places per device; those beyond the clients are at the end of a device and never take
    part."""
    client: Int[np.ndarray, " padded"]
    """Client at each place; `nobody`: none."""
    place: Int[np.ndarray, " C"]
    """Place of each client."""
    samples: Int[np.ndarray, " padded"]
    """Samples of a round at each place, positives and negatives; 0 where there is no client."""
    classes: tuple[SizeClass, ...]
    coarse: tuple[SizeClass, ...]
    """Half as many classes, for work that few clients do: see `classes_for`."""
    block: int
    """Clients worked on side by side."""
    cohort: Int[np.ndarray, " C"]
    """Declared cohort of each client, which the server knows; all 0 if none is declared."""

    @property
    def device(self) -> Any:
        """The first device that is of this process."""
        return own_device(self.mesh.devices.flat)

    @property
    def padded(self) -> int:
        """Length of the client axis: a multiple of the number of devices."""
        return self.shard * self.mesh.size

    @property
    def nobody(self) -> int:
        """Number that stands for no client."""
        return self.num_clients

    def classes_for(self, clients: int) -> tuple[SizeClass, ...]:
        """Size classes for what so many clients do in a round.

        Few clients get the coarse ones, since each class costs a compilation.
        """
        return self.classes if 2 * clients > self.num_clients else self.coarse

    def places(self, clients: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Places of clients."""
        return jnp.asarray(self.place)[clients]

    def spread(self, values: Int[np.ndarray, "C *n"]) -> Int[np.ndarray, "padded *n"]:
        """Values of the clients, in order of place; 0 where there is no client."""
        spread = np.zeros((self.padded, *values.shape[1:]), np.int32)
        spread[self.place] = values
        return spread

    def width(self, places: int) -> int:
        """Clients side by side in a class of so many places: even blocks, none above `block`."""
        return -(-places // -(-places // self.block))

    def sharded(self) -> NamedSharding:
        """Sharding of arrays that have the client axis first."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of_server(self, server: Any) -> Any:
        """Sharding of each array of the server."""
        return jax.tree.map(partial(NamedSharding, self.mesh), specs_of_server(server))

    def split(self, values: Array) -> Array:
        """The same array, worked on by all devices, each a part of its first axis."""
        return lax.with_sharding_constraint(values, self.sharded())

    def on_each_device(
        self, work: Callable[..., Any], clients, server, *others, summed: bool = False
    ) -> Any:
        """`work(clients, server, *others)` on every device: its own part of whatever has the client
        axis first (all arguments and results), and the whole of `server`, but for `PerDevice`. With
        `summed`, the result is a pair, and its second part is the same on all devices."""
        own, whole = PartitionSpec(AXIS), PartitionSpec()
        specs = (own, specs_of_server(server)) + (own,) * len(others)
        returns = (own, whole) if summed else own
        mapped = jax.shard_map(
            work, mesh=self.mesh, in_specs=specs, out_specs=returns, check_vma=False
        )
        return mapped(clients, server, *others)

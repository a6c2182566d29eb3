"""Residents: the clients whose state is on the devices while that of all others is on the host.

They have places of their own: the first resident of a device is at its place 0. One compiled
program serves any residents, since who they are is among its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from fedem_jax.core.layout import Layout, SizeClass


class Residents(NamedTuple):
    """Some clients at their places. In a compiled program the arrays are traced."""

    client: Any
    """[residents] client at each place; `Layout.nobody`: none."""
    samples: Any
    """[residents] samples of a round at each place; 0 where there is no client."""
    classes: tuple[Any, ...]
    """[devices n] members of each size class, as in `SizeClass.members`."""
    coarse: tuple[Any, ...]
    """The same for the coarse classes."""


class Seats:
    """Gives places to clients that become residents."""

    def __init__(self, layout: Layout, shard: int):
        """
        Args:
            layout: of all clients.
            shard: places of residents on each device.
        """
        self.layout, self.shard = layout, shard
        self._classes, self._coarse = (
            _Membership(layout, sizes) for sizes in (layout.classes, layout.coarse)
        )

    def of(self, clients: Int[np.ndarray, " n"], before: Residents | None = None) -> Residents:
        """The clients at places on the devices.

        Who was there before stays on its device. The others are dealt out in order of size, first
        to the devices with the fewest.

        Args:
            clients: distinct, and no more than there are places.
            before: the residents until now.
        """
        layout, shard, devices = self.layout, self.shard, self.layout.mesh.size
        device_of = np.full(layout.num_clients + 1, -1)
        if before is not None:
            device_of[before.client] = np.arange(devices * shard) // shard
        device = device_of[clients]
        new = np.flatnonzero(device < 0)
        new = new[np.argsort(-layout.samples[layout.place[clients[new]]], kind="stable")]
        taken = np.bincount(device[device >= 0], minlength=devices)
        _, free = np.nonzero(np.arange(shard)[:, None] >= taken[None, :])
        device[new] = free[: len(new)]
        seated = np.full((devices, shard), layout.nobody, np.int32)
        for number, row in enumerate(seated):
            own = np.sort(clients[device == number])
            row[: len(own)] = own
        client = seated.ravel()
        present, samples = client < layout.nobody, np.zeros(len(client), np.int32)
        samples[present] = layout.samples[layout.place[client[present]]]
        return Residents(client, samples, self._classes.of(seated), self._coarse.of(seated))

    def kept(self, now: Residents, before: Residents) -> Int[np.ndarray, " residents"]:
        """Place that each resident had on its device before; `shard`: it was not there."""
        place = np.full(self.layout.num_clients + 1, self.shard, np.int32)
        place[before.client] = np.arange(len(before.client)) % self.shard
        place[self.layout.nobody] = self.shard
        return place[now.client]


class _Membership:
    """The size class of every client, and its position there."""

    def __init__(self, layout: Layout, sizes: Sequence[SizeClass]):
        self._size = np.full(layout.num_clients + 1, -1)
        self._position = np.zeros(layout.num_clients + 1, int)
        self._numbers = []
        for number, size in enumerate(sizes):
            device, position = np.nonzero(size.members < layout.shard)
            client = layout.client[device * layout.shard + size.members[device, position]]
            self._size[client], self._position[client] = number, position
            self._numbers.append(len(client))

    def of(self, client: Int[np.ndarray, "devices shard"]) -> tuple[np.ndarray, ...]:
        """The members of each class among the clients at these places, in order of the class."""
        devices, shard = client.shape
        classes = [
            np.full((devices, min(shard, number)), shard, np.int32) for number in self._numbers
        ]
        for device, own in enumerate(client):
            in_order = np.argsort(self._position[own], kind="stable")
            for number, members in enumerate(classes):
                places = in_order[self._size[own[in_order]] == number]
                members[device, : len(places)] = places
        return tuple(classes)


def places_needed(layout: Layout, participants: int, block: int) -> tuple[int, int]:
    """Places of residents on each device: for the participants of a round, and for an evaluation.

    Args:
        layout: of all clients.
        participants: of a round.
        block: clients side by side.
    """
    trained = -(-participants // layout.mesh.size)
    return trained, min(max(trained, block), layout.shard)


def residents_of(layout: Layout, residents: Residents) -> Layout:
    """The layout of the residents alone.

    Numbers of clients are those of the federation. A client that is not resident has a place beyond
    all: what is read there means nothing, and what is written there is dropped.

    Args:
        layout: of all clients.
        residents: at their places; they may be traced.
    """
    length = len(residents.client)
    beyond = jnp.full(layout.num_clients, length, jnp.int32)
    place: Any = beyond.at[residents.client].set(jnp.arange(length, dtype=jnp.int32), mode="drop")

    def with_members(sizes: Sequence[SizeClass], members: Sequence[Any]) -> tuple[SizeClass, ...]:
        pairs = zip(sizes, members, strict=True)
        return tuple(size._replace(members=own) for size, own in pairs)

    return layout._replace(
        shard=length // layout.mesh.size,
        client=residents.client,
        place=place,
        samples=residents.samples,
        classes=with_members(layout.classes, residents.classes),
        coarse=with_members(layout.coarse, residents.coarse),
    )

"""How much of what is computed is padding, class by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedem_jax.core.layout import ClientLoad, Layout, SizeClass


class ClassPlan(NamedTuple):
    """One size class, as if all its members were at work."""

    capacity: int
    """Places for training positives."""
    members: int
    """Clients."""
    rows: int
    """Rows of the compact table, M."""
    steps: int
    """Local steps of an epoch, of the largest member."""
    useful: float
    """Steps times rows that they really touch, over the members."""
    padded: np.ndarray
    """[devices] steps times rows as they are computed."""

    @property
    def padding(self) -> float:
        """Computed over useful work, at least 1."""
        return self.padded.sum() / self.useful


def plan_class(need: ClientLoad, size: SizeClass, layout: Layout) -> ClassPlan:
    """The plan of one size class. A block takes as many steps as its largest client, and a place of
    a block that no client fills is computed all the same."""
    places = size.members.shape[1]
    block = layout.width(places)
    room = [(0, 0), (0, -places % block)]
    members = np.pad(size.members, room, constant_values=layout.shard)
    device, place = np.nonzero(members < layout.shard)
    clients = layout.client[device * layout.shard + members[device, place]]
    steps = np.zeros(members.shape, int)
    steps[device, place] = need.steps[clients]
    longest = steps.reshape(len(members), -1, block).max(axis=2)
    return ClassPlan(
        capacity=size.positives,
        members=len(clients),
        rows=size.rows,
        steps=int(steps.max()),
        useful=float(need.steps[clients] @ need.touched[clients]),
        padded=longest.sum(axis=1) * block * size.rows,
    )

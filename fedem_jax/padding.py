"""How much of what is computed is padding, class by class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedem_jax.clients import Layout, SizeClass
from fedem_jax.config import Config
from fedem_jax.data.federation import Federation


class Useful(NamedTuple):
    """What each client really touches, before any padding."""

    samples: np.ndarray
    """[C] samples of a round, positives and negatives."""
    steps: np.ndarray
    """[C] local steps of an epoch."""
    rows: np.ndarray
    """[C] expected number of distinct items among the samples."""

    @classmethod
    def of(cls, config: Config, federation: Federation) -> Useful:
        """n positives, and for each of them k distinct negatives out of a pool of u items, so that
        an item of the pool is among them with probability 1 - (1 - k / u)^n."""
        k, sizes = config.num_negative, np.diff(federation.offsets)
        pool = federation.num_items - np.diff(federation.barred_offsets)
        client = np.repeat(np.arange(len(sizes)), sizes)
        distinct = np.unique(client * federation.num_items + federation.items)
        positives = np.bincount(distinct // federation.num_items, minlength=len(sizes))
        samples = sizes * (1 + k)
        negatives = pool * (1 - (1 - k / pool) ** sizes)
        return cls(samples, -(-samples // config.batch_size), positives + negatives)


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


def plan_class(useful: Useful, size: SizeClass, layout: Layout) -> ClassPlan:
    """The plan of one size class. A block takes as many steps as its largest client, and a place of
    a block that no client fills is computed all the same."""
    places = size.members.shape[1]
    block = layout.width(places)
    room = [(0, 0), (0, -places % block)]
    members = np.pad(size.members, room, constant_values=layout.shard)
    device, place = np.nonzero(members < layout.shard)
    clients = layout.client[device * layout.shard + members[device, place]]
    steps = np.zeros(members.shape, int)
    steps[device, place] = useful.steps[clients]
    longest = steps.reshape(len(members), -1, block).max(axis=2)
    return ClassPlan(
        capacity=size.positives,
        members=len(clients),
        rows=size.rows,
        steps=int(steps.max()),
        useful=float(useful.steps[clients] @ useful.rows[clients]),
        padded=longest.sum(axis=1) * block * size.rows,
    )

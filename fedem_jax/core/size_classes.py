"""Dealing clients out to devices and size classes, such that little of the work is padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from fedem_jax.core.layout import AXIS, Layout, SizeClass
from fedem_jax.data.federation import Federation


class ClientLoad(NamedTuple):
    """What local training takes, client by client, before any padding."""

    samples: Int[np.ndarray, " C"]
    """Samples of a round, positives and negatives."""
    steps: Int[np.ndarray, " C"]
    """Local steps of an epoch."""
    rows: Int[np.ndarray, " C"]
    """Items that the samples of a round touch at most: those trained on, and for each positive as
    many as it has negatives; never more than there are items."""
    touched: Float[np.ndarray, " C"]
    """Items that they touch on average. A client with n positives, each with k distinct negatives
    out of a pool of u items, has an item of the pool among them with probability
    1 - (1 - k / u)^n."""

    @classmethod
    def of(cls, federation: Federation, num_negative: int, batch_size: int) -> ClientLoad:
        """What the clients of a federation need."""
        k, sizes, num_items = num_negative, np.diff(federation.offsets), federation.num_items
        client = np.repeat(np.arange(len(sizes)), sizes)
        distinct = np.unique(client * num_items + federation.items) // num_items
        positives = np.bincount(distinct, minlength=len(sizes))
        pool = num_items - np.diff(federation.barred_offsets)
        touched = positives + pool * (1 - (1 - k / np.maximum(pool, 1)) ** sizes)
        rows = np.minimum(positives + k * sizes, num_items)
        return cls(sizes * (1 + k), -(-sizes * (1 + k) // batch_size), rows, touched)


LITTLE_PADDING = 1.45
"""Computed over useful work below which no further size class is worth its compilation."""
MOST_CLASSES = 7
"""Most size classes, unless a configuration says how many: each costs seconds of compilation."""


def lay_out(
    federation: Federation,
    load: ClientLoad,
    *,
    devices: Sequence[Any],
    num_classes: int,
    block: int,
    longest_first: bool = False,
    price: float = 0.0,
) -> Layout:
    """Deal the clients out to devices and sort them into size classes.

    The classes are those with the fewest local steps times rows that each step moves.

    Args:
        federation: the data.
        load: what local training takes, client by client.
        devices: each gets about the same load.
        num_classes: most size classes; 0: as few as keep the padding small.
        block: clients side by side.
        longest_first: whether a class begins with those that take longest.
        price: what a class has to save, in local steps of a round times rows.
    """
    number, shard = federation.num_clients, -(-federation.num_clients // len(devices))
    client = np.full((len(devices), shard), number)  # `Layout.nobody`
    by_size = np.lexsort((np.arange(number), -load.rows, -load.steps))
    turn, seat = np.divmod(np.arange(number), len(devices))
    seat = np.where(turn % 2, len(devices) - 1 - seat, seat)  # there and back again
    for device, row in enumerate(client):
        dealt = np.sort(by_size[seat == device])
        row[: len(dealt)] = dealt
    client = client.ravel()
    place = np.argsort(client, kind="stable")[:number]
    layout = Layout(
        mesh=Mesh(np.asarray(devices), (AXIS,)),
        num_clients=number,
        num_items=federation.num_items,
        shard=shard,
        client=client,
        place=place,
        samples=np.zeros(len(client), np.int32),
        classes=(),
        coarse=(),
        block=block,
        cohort=federation.cohort,
    )
    padding, most = (0.0, num_classes) if num_classes else (LITTLE_PADDING, MOST_CLASSES)
    sort = partial(size_classes, federation, load, layout, longest_first=longest_first)
    classes = sort(most, padding, 0.0 if num_classes else price)
    coarse = sort(max(1, len(classes) // 2))
    samples = layout.spread(load.samples)
    return layout._replace(samples=samples, classes=classes, coarse=coarse)


def size_classes(
    federation: Federation,
    load: ClientLoad,
    layout: Layout,
    most: int,
    padding: float = 0.0,
    price: float = 0.0,
    longest_first: bool = False,
) -> tuple[SizeClass, ...]:
    """Sort the clients into size classes by the rows that each may touch.

    Args:
        federation, load, layout: as for `lay_out`.
        most: most classes.
        padding: computed over useful work that is good enough: no class is added below it.
        price: what a class has to save, in local steps times rows.
        longest_first: whether a class begins with those that take longest.
    """
    sizes, barred = np.diff(federation.offsets), np.diff(federation.barred_offsets)
    enough = padding * float(load.steps @ load.touched)
    capacities = best_capacities(load.rows, load.steps, most, enough, price)
    class_of = np.searchsorted(capacities, load.rows)
    by_size = np.lexsort((load.rows, load.steps))
    if longest_first:
        by_size = by_size[::-1]
    classes = []
    for index, capacity in enumerate(capacities):
        inside = by_size[class_of[by_size] == index]
        device, place = np.divmod(layout.place[inside], layout.shard)
        of_device = [place[device == d] for d in range(layout.mesh.size)]
        members = np.full((layout.mesh.size, max(map(len, of_device))), layout.shard, np.int32)
        for row, places in zip(members, of_device, strict=True):
            row[: len(places)] = places
        most_positives, most_barred = int(sizes[inside].max()), int(barred[inside].max())
        classes.append(SizeClass(most_positives, most_barred, int(capacity), members))
    return tuple(classes)


def best_capacities(
    needs: np.ndarray, steps: np.ndarray, most: int, enough: float = 0.0, price: float = 0.0
) -> np.ndarray:
    """Capacities of size classes, in rising order, that hold all needs at the least cost.

    The cost is the sum over the clients of steps times the capacity of their class. No class is
    added once the cost is at most `enough`, or if it saves less than its `price`.

    Dynamic programming over the distinct needs. The best way to cover the smallest ones with k
    classes ends in one class. Before it stands the best way to cover fewer of them with k - 1.
    """
    distinct, which = np.unique(needs, return_inverse=True)
    up_to = np.concatenate([[0.0], np.cumsum(np.bincount(which, weights=steps))])
    reached = np.arange(len(distinct))
    # closing[j, i]: cost of one class of capacity distinct[j] that holds distinct[i .. j]
    closing = distinct[:, None] * (up_to[1:, None] - up_to[None, :-1])
    closing[reached[:, None] < reached[None, :]] = np.inf
    best, choices = closing[:, 0].copy(), [np.zeros(len(distinct), int)]
    for _ in range(1, min(most, len(distinct))):
        if best[-1] <= enough:
            break
        before = np.concatenate([[0.0], best[:-1]])
        totals = before[None, :] + closing
        if best[-1] - totals[-1].min() < price:
            break
        choices.append(totals.argmin(axis=1))
        best = totals.min(axis=1)
    ends, last = [], len(distinct) - 1
    for choice in reversed(choices):
        ends.append(last)
        last = choice[last] - 1
        if last < 0:
            break
    return distinct[ends[::-1]]

"""Histograms of rho, the weight of the aggregated row in a merge, counted after a round.

They are counted on the device, by activity of the client and popularity of the item. Training items
of the client are counted apart from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.blocks import for_each_block
from fedem_jax.core.layout import AXIS, Layout
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation

BINS = 20
"""Bins of equal width, for rho from 0 to 1."""
ACTIVITIES = 4
"""Quarters of the clients, by training items."""
POPULARITIES = 5
"""Fifths of the items, by training interactions of all clients."""

SHAPE = (ACTIVITIES, POPULARITIES, 2, BINS)
"""Axes of the counts: activity, popularity, item (0 = other, 1 = own training item), bin of rho."""


class Groups(NamedTuple):
    """The group of each client and of each item, in rising order of activity and popularity."""

    activity: Int[Array, " places"]
    popularity: Int[Array, " I"]


def groups_of(federation: Federation, layout: Layout) -> Groups:
    """Groups of about equal size."""
    activity = in_order(np.diff(federation.offsets), ACTIVITIES)
    counts = np.bincount(federation.items, minlength=federation.num_items)
    popularity = in_order(counts, POPULARITIES)
    return Groups(jnp.asarray(layout.spread(activity)), jnp.asarray(popularity))


def in_order(values: Int[np.ndarray, " n"], groups: int) -> Int[np.ndarray, " n"]:
    """The group of each value, among `groups` groups of about equal size in rising order."""
    place = np.empty(len(values), np.int32)
    place[np.argsort(values, kind="stable")] = np.arange(len(values))
    return (groups * place // len(values)).astype(np.int32)


def counter(
    algorithm: Algorithm, federation: Federation, layout: Layout, lists: Lists
) -> Callable[[State], np.ndarray] | None:
    """`(state) -> counts`, shaped `SHAPE`, over the rows of all clients that are about to merge.

    None if the method learns no rho.
    """
    if algorithm.elastic is None or not algorithm.elastic.learned:
        return None
    groups = groups_of(federation, layout)

    @jax.jit
    def count(state: State, lists: Lists) -> Int[Array, "A P 2 B"]:
        return counts(algorithm, layout, groups, state, lists)

    def counted(state: State) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(count(state, lists))

    return counted


def counts(
    algorithm: Algorithm, layout: Layout, groups: Groups, state: State, lists: Lists
) -> Int[Array, "A P 2 B"]:
    """Histograms of rho over the rows of all clients that are about to merge.

    Args:
        algorithm: a method that learns rho.
        layout: where the clients are.
        groups: of the clients at these places, and of the items.
        state: parameters of clients and server.
        lists: training items of the clients.
    """
    elastic, num_items = algorithm.elastic, layout.num_items
    assert elastic is not None
    members = [jnp.asarray(size.members) for size in layout.coarse]

    def on_device(sharded, replicated, client_at, members):
        (clients, served, activity), (server, lists) = sharded, replicated

        def block(size, places, counts):
            rho = elastic.rho(State(clients, server), places, algorithm.hyper)

            def known(place):
                client = client_at.at[place].get(mode="fill", fill_value=layout.nobody)
                items, count = lists.positives(client, size.positives)
                items = jnp.where(jnp.arange(size.positives) < count, items, num_items)
                return jnp.zeros(num_items, jnp.int32).at[items].set(1, mode="drop")

            level = jnp.clip((rho * BINS).astype(jnp.int32), 0, BINS - 1)
            active = activity.at[places].get(mode="clip")[:, None]
            place = (active, groups.popularity[None, :], jax.vmap(known)(places), level)
            present = (places < layout.shard)[:, None]
            return counts.at[place].add(jnp.broadcast_to(present, rho.shape).astype(jnp.int32))

        start = jnp.zeros(SHAPE, jnp.int32)
        counts = for_each_block(block, start, served, layout.coarse, members, layout)
        return (), lax.psum(counts, AXIS)

    sharded = (state.clients, elastic.waits(state), groups.activity)
    replicated, client_at = (state.server, lists), jnp.asarray(layout.client)
    _, total = layout.on_each_device(
        on_device, sharded, replicated, client_at, members, summed=True
    )
    return total


def quantiles(counts: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """[..., levels] quantiles of the histograms along the last axis, interpolated within a bin.

    They are NaN where a histogram is empty.
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum(axis=-1, keepdims=True)
    edges = np.linspace(0, 1, counts.shape[-1] + 1)
    with np.errstate(invalid="ignore"):
        below = np.cumsum(counts, axis=-1) / total
    flat = below.reshape(-1, below.shape[-1])
    values = np.full((len(flat), len(levels)), np.nan)
    for row, share in zip(values, flat, strict=True):
        if np.isfinite(share[-1]):
            row[:] = np.interp(levels, np.concatenate([[0.0], share]), edges)
    return values.reshape(*counts.shape[:-1], len(levels))

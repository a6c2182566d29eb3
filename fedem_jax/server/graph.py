"""A graph over all clients, and tables averaged over it, in slices of the items.

The tables of all clients are never gathered whole: a device multiplies and averages some items of
all tables at once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key, Num

from fedem_jax.config.settings import GPFedRec
from fedem_jax.core.layout import AXIS, Layout
from fedem_jax.core.table_storage import from_storage, to_storage

ITEMS_AT_ONCE = 64
"""Items of all tables that are multiplied at once."""

Upload = Callable[..., Float[Array, "shard W D"]]
"""`(part, key, client_at, first) -> part` of the tables of a device's clients as they are
uploaded, from item `first` on."""


def slice_of(items: Num[Array, "shard I D"], uploaded: Upload, key, client_at, b):
    """Slice `b` of the tables of this device's clients, as they are uploaded, and its first item.

    The last slice begins where it is full, with items that the one before it had.
    """
    num_items, width = items.shape[1], min(ITEMS_AT_ONCE, items.shape[1])
    first = jnp.minimum(b * width, num_items - width)
    part = from_storage(lax.dynamic_slice_in_dim(items, first, width, axis=1))
    return first, uploaded(part, key, client_at, first)


def products(
    layout: Layout, items: Num[Array, "C I D"], key: Key[Array, ""], uploaded: Upload
) -> Float[Array, "C C"]:
    """Inner products of all uploaded tables."""
    width = min(ITEMS_AT_ONCE, layout.num_items)

    def on_device(items, key, client_at):
        def add(b, total):
            first, part = slice_of(items, uploaded, key, client_at, b)
            new = first + jnp.arange(width) >= b * width
            mine, everyone = jnp.where(new[None, :, None], part, 0), gathered(part)
            return total + jnp.einsum("uid,vid->uv", mine, everyone, precision="highest")

        start = jnp.zeros((layout.shard, layout.padded))
        return lax.fori_loop(0, -(-layout.num_items // width), add, start)

    return layout.on_each_device(on_device, items, key, jnp.asarray(layout.client))


def averages(
    layout: Layout,
    graph: Float[Array, "C C"],
    layers: int,
    items: Num[Array, "C I D"],
    personal: Num[Array, "C I D"],
    key: Key[Array, ""],
    uploaded: Upload,
) -> tuple[Num[Array, "C I D"], Float[Array, "I D"]]:
    """The uploaded tables averaged over the graph, for every client, and their mean.

    Args:
        layout: where the clients are.
        graph: weights of client v's table for client u; rows sum to 1.
        layers: steps over the graph.
        items: all tables.
        personal: the averages of the last round, which the new ones replace.
        key: of the noise.
        uploaded: what the clients make of their tables before they upload them.
    """
    width = min(ITEMS_AT_ONCE, layout.num_items)

    def on_device(tables, key, client_at, graph):
        items, personal = tables
        present = (client_at < layout.num_clients)[:, None, None]

        def put(b, averages):
            personal, common = averages
            first, part = slice_of(items, uploaded, key, client_at, b)
            for _ in range(layers):
                part = jnp.einsum("uv,vid->uid", graph, gathered(part), precision="highest")
            old = lax.dynamic_slice_in_dim(personal, first, width, axis=1)
            mean = lax.psum(jnp.where(present, part, 0).sum(axis=0), AXIS) / layout.num_clients
            part = jnp.where(present, to_storage(part, old.dtype), old)
            personal = lax.dynamic_update_slice_in_dim(personal, part, first, axis=1)
            common = lax.dynamic_update_slice_in_dim(common, mean, first, axis=0)
            return personal, common

        start = (personal, jnp.zeros(items.shape[1:]))
        return lax.fori_loop(0, -(-layout.num_items // width), put, start)

    client_at = jnp.asarray(layout.client)
    return layout.on_each_device(on_device, (items, personal), key, client_at, graph, summed=True)


def gathered(part: Float[Array, "shard I D"]) -> Float[Array, "C I D"]:
    """The parts of all devices."""
    return lax.all_gather(part, AXIS, tiled=True)


def neighbour_weights(
    config: GPFedRec, gram: Float[Array, "C C"], present: Bool[Array, " C"], threshold
) -> Float[Array, "C C"]:
    """Weight of client v's table in that of client u: uniform over the neighbours of u.

    Neighbours have large entries W_uv. The released program takes these from a distance, 1 minus
    the cosine: neighbours are the most dissimilar clients, and nobody is its own. The paper means
    the cosine.

    Args:
        config: graph, and number of neighbours; 0: all v with W_uv above the threshold, or else u
            alone.
        gram: products of the clients' tables.
        present: which of them exist; the others are nobody's neighbours.
        threshold: as a multiple of the mean entry of W, its diagonal included.
    """
    same, norm = jnp.eye(len(gram), dtype=bool), jnp.sqrt(jnp.diagonal(gram))
    cosine = jnp.where(same, 1.0, jnp.clip(gram / norm[:, None] / norm[None, :], -1, 1))
    edges = 1 - cosine if config.graph == "distance" else cosine
    if config.neighbours:
        candidates = jnp.where(present[None, :], edges, -jnp.inf)
        _, nearest = lax.top_k(candidates, config.neighbours)
        row = jnp.arange(len(gram))[:, None]
        return jnp.zeros(gram.shape).at[row, nearest].set(1 / config.neighbours)
    both, number = present[:, None] & present[None, :], present.sum()
    mean = (jnp.where(both, edges, 0).sum(axis=1) / number).sum() / number
    chosen = both & (edges > threshold * mean)
    chosen = chosen | (same & ~chosen.any(axis=1, keepdims=True))
    return chosen / chosen.sum(axis=1, keepdims=True)

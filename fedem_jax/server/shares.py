"""The server's step divided over the devices: each holds its share of the uploads.

A share is A / devices clients, in the order in which they are aggregated. Where A is no multiple,
rows of zeros follow, which have no weight.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fedem_jax.core.layout import AXIS, Layout, PerDevice
from fedem_jax.core.table_storage import from_storage, to_storage
from fedem_jax.server.aggregation import aggregate
from fedem_jax.server.serving import device_and_row
from fedem_jax.server.similarity import principal_axes, principal_scores


def share_size(layout: Layout, uploads: int) -> int:
    """Uploads on each device, padding included."""
    return -(-uploads // layout.mesh.size)


def padded(layout: Layout, values: Int[Array, " A"], empty: int) -> Int[Array, " A2"]:
    """Numbers of the uploads, with `empty` up to the next multiple of the devices."""
    missing = share_size(layout, len(values)) * layout.mesh.size - len(values)
    return jnp.pad(values, (0, missing), constant_values=empty)


def shares_of(layout: Layout, clients: Any, uploaders: Int[Array, " A"]) -> Any:
    """[A2 ...] what some clients hold, out of arrays [C ...]: each device gets its share alone."""
    places, size = padded(layout, layout.places(uploaders), layout.padded), layout.mesh.size
    if size == 1:
        return jax.tree.map(lambda leaf: leaf[places], clients)
    share = share_size(layout, len(uploaders))

    def on_device(clients, places):
        me = lax.axis_index(AXIS)

        def fetch(device, mine):
            local = lax.dynamic_slice_in_dim(places, device * share, share) - me * layout.shard
            here = (local >= 0) & (local < layout.shard)

            def put(old, leaf):
                rows = from_storage(leaf[jnp.where(here, local, 0)])
                rows = jnp.where(here.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
                return jnp.where(device == me, to_storage(lax.psum(rows, AXIS), old.dtype), old)

            return jax.tree.map(put, mine, clients)

        nothing = jax.tree.map(
            lambda leaf: jnp.zeros((share, *leaf.shape[1:]), leaf.dtype), clients
        )
        return lax.fori_loop(0, size, fetch, nothing)

    return layout.on_each_device(on_device, clients, places)


def signatures(
    layout: Layout, tables: Float[Array, "A2 I D"], uploads: int
) -> tuple[Float[Array, "A D"], Float[Array, "A I"]]:
    """First principal axis of each uploaded table, and its scores, the client's signature."""

    def on_device(tables, _):
        axes = principal_axes(tables)
        return axes, principal_scores(tables, axes)

    axes, scores = layout.on_each_device(on_device, tables, ())
    return axes[:uploads], scores[:uploads]


def aggregate_shares(
    layout: Layout,
    weights: Float[Array, "R A"],
    tables: Float[Array, "A2 I D"],
    before: Any,
    served: Int[Array, " A"] | None = None,
) -> Any:
    """G_u = sum_v W_uv Q_v. Each device computes those of its share.

    It gets a part of the items of all uploads at a time, which is as much as its own share. Then
    every device gets these parts of all tables. It keeps those of its own clients, if `before` is
    `PerDevice`, else all.

    Args:
        layout: where the clients are.
        weights: W. Either R = 1, or R = A.
        tables: uploads.
        before: the tables of the last round, which the new ones replace in place.
        served: the client of each upload, if `before` is `PerDevice`.

    Returns:
        [R I D] tables, or such rows of each device.
    """
    (rows, uploads), divided = weights.shape, isinstance(before, PerDevice)
    dtype = (before.rows if divided else before).dtype
    num_items, size = layout.num_items, layout.mesh.size
    if size == 1:
        return to_storage(aggregate(weights, tables), dtype)
    share, missing = share_size(layout, uploads), len(tables) - uploads
    width = -(-num_items // size)

    def one_for_all(tables, weights):
        mine = lax.dynamic_slice_in_dim(weights, lax.axis_index(AXIS) * share, share, axis=1)
        return (), to_storage(lax.psum(aggregate(mine, tables), AXIS), dtype)

    def one_for_each(parts, before, kept):
        weights, tables = parts

        def put(b, made):
            first = jnp.minimum(b * width, num_items - width)
            part = lax.dynamic_slice_in_dim(tables, first, width, axis=1)
            new = aggregate(weights, lax.all_gather(part, AXIS, tiled=True))
            new = lax.all_gather(to_storage(new, dtype), AXIS, tiled=True)[kept]
            return lax.dynamic_update_slice_in_dim(made, new, first, axis=1)

        return lax.fori_loop(0, size, put, before)

    if rows == 1 and not divided:
        weights = jnp.pad(weights, ((0, 0), (0, missing)))
        return layout.on_each_device(one_for_all, tables, weights, summed=True)[1]
    parts = (jnp.pad(weights, ((0, missing), (0, missing))), tables)
    if not divided:

        def all_of_them(parts, before):
            return (), one_for_each(parts, before, slice(rows))

        return layout.on_each_device(all_of_them, parts, before, summed=True)[1]

    def own_ones(parts, before, kept):
        return PerDevice(one_for_each(parts, before.rows, kept))

    assert served is not None
    kept = upload_of_row(layout, served, len(before.rows))
    return layout.on_each_device(own_ones, parts, before, kept)


def upload_of_row(layout: Layout, served: Int[Array, " A"], rows: int) -> Int[Array, " rows"]:
    """The upload whose client each row waits for, of all devices; 0 where there is none."""
    device, row = device_and_row(layout, served)
    place = device * (rows // layout.mesh.size) + row
    return jnp.zeros(rows, jnp.int32).at[place].set(jnp.arange(len(served), dtype=jnp.int32))


def aggregation_scratch(layout: Layout, uploads: int, dim: int) -> dict[str, int]:
    """Numbers that XLA keeps at once to aggregate by similarity.

    A device has its share of the uploads, and as much of the others' and of what it computes. It
    has the signatures of its share twice, and 6 arrays of its clients by all. On several devices it
    gets the signatures of all.
    """
    share, num_items, several = share_size(layout, uploads), layout.num_items, layout.mesh.size > 1
    tables = share * num_items * (dim * (3 if several else 1) + 2)
    return {"aggregate": tables + 6 * share * uploads + uploads * num_items * several}

"""Local differential privacy of what a client uploads: a bound on it, and noise.

    sent = known + M min(1, clip / |M|) + scale Z,    number by number

    laplace:   |.| is the L1 norm, Z ~ Laplace(0, 1)    (Dwork, McSherry, Nissim, Smith 2006)
    gaussian:  |.| is the L2 norm, Z ~ N(0, 1)          (Dwork, Roth 2014, appendix A)

`known` is a table that does not depend on the client's data of this round: the last download, or
FedEM's first table. M is what the client's own parameters add to it. For any data of the client,
the noiseless upload lies within `clip` of `known` in this norm. So two data sets make it differ by
at most 2 clip. The noise covers all rows: those that moved would tell what was sampled.

This bounds what one round's item table (and network or adapter, if sent) tells of one client's
data, and nothing else; without a bound it is no guarantee. What lies outside is listed in
docs/privacy.md.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.shared import LocalPrivacy
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS
from fedem_jax.core.round import RoundContext, Sum
from fedem_jax.core.table_storage import from_storage, to_storage

DRAWS = {"laplace": jax.random.laplace, "gaussian": jax.random.normal}
"""Noise of scale 1, by the name that the settings have for it."""


def epsilon(clip: float, scale: float, rounds: int = 1) -> float:
    """epsilon of a client's item tables in all the rounds in which it uploads.

    Any two data sets of the client are neighbours, so the sensitivity is 2 clip. Rounds add up by
    basic composition of the Laplace mechanism (Dwork, McSherry, Nissim, Smith 2006).

    It is for Laplace noise. Gaussian noise has no such epsilon without a delta.

    Infinite without a bound (`clip` 0) or without noise (`scale` 0). It holds in exact arithmetic,
    and not for what docs/privacy.md lists as outside of it.
    """
    if clip == 0 or scale == 0:
        return math.inf
    return rounds * 2 * clip / scale


def clipped(config: LocalPrivacy, moved: Any, clip: Any) -> Any:
    """M min(1, clip / |M|) of a tree of arrays, with the norm of all its numbers together: L1 for
    Laplace noise, L2 for Gaussian noise.

    A tree within the bound stays as it is, to the bit. Where the configuration has no bound nothing
    is computed, and `clip` is not looked at; a traced `clip` of 0 is none.
    """
    if not config.ldp_clip:
        return moved
    leaves = jax.tree.leaves(moved)
    if config.ldp_noise == "gaussian":
        norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in leaves))
    else:
        norm = sum(jnp.abs(leaf).sum() for leaf in leaves)
    factor = jnp.where(clip > 0, clip / jnp.maximum(norm, clip), 1.0)
    return jax.tree.map(lambda leaf: factor * leaf, moved)


def noise(
    key: Key[Array, ""],
    client: Int[Array, ""],
    items: Int[Array, " M"],
    dim: int,
    kind: str = "laplace",
) -> Float[Array, "M D"]:
    """Noise of scale 1 on rows of a client's table, from keys of the client and the item: it
    depends neither on the other clients nor on how items and clients are cut into parts.

    Args:
        key: of the server's draws in this round.
        client: whose table.
        items: of the rows.
        dim: D.
        kind: a name in `DRAWS`.
    """
    key, draw = jax.random.fold_in(key, client), DRAWS[kind]
    return jax.vmap(lambda item: draw(jax.random.fold_in(key, item), (dim,)))(items)


def noisy_uploads(
    config: LocalPrivacy,
    draws: Draws,
    clients: Int[Array, " A"],
    uploads: Sum,
    known: Sum | None,
    hyper: Any,
) -> Sum:
    """What these clients upload, one by one: bounded around `known`, with noise.

    What the clients keep stays as it is.

    Args:
        config: whether there is noise and a bound.
        draws: of the round; its server key is that of the noise, if there is any.
        clients: whose uploads these are.
        uploads: [A ...] tables, as held between rounds, and whatever else is sent.
        known: what the bound is around; None without one.
        hyper: the numbers `ldp_scale` and `ldp_clip`.
    """
    if not (config.ldp_scale or config.ldp_clip):
        return uploads

    def in_float32(upload: Sum) -> Sum:
        return upload._replace(items=from_storage(upload.items))

    def of_client(client, upload):
        sent = in_float32(upload)
        if known is not None:
            start = in_float32(known)
            moved = clipped(config, jax.tree.map(jnp.subtract, sent, start), hyper.ldp_clip)
            sent = jax.tree.map(jnp.add, start, moved)
        if config.ldp_scale:
            noises = noise_like(config.ldp_noise, sent, draws.server(), client)
            sent = jax.tree.map(lambda own, new: own + hyper.ldp_scale * new, sent, noises)
        return sent._replace(items=to_storage(sent.items, upload.items.dtype))

    return lax.map(lambda each: of_client(*each), (clients, uploads))


def upload_scratch(config: FedEM, uploads: int, num_items: int) -> dict[str, int]:
    """Numbers that XLA keeps at once to make uploads one by one, with noise or a bound: the tables
    before and after; one client's table, its noise and bits."""
    if not (config.ldp_scale or config.ldp_clip):
        return {}
    return {"upload": (2 * uploads + 4) * num_items * config.dim}


def noisy_sum(
    config: LocalPrivacy, context: RoundContext, shares: Float[Array, " P"], upload: Sum, hyper: Any
) -> Sum:
    """The weighted sum of the uploads and of their noises, sum_u a_u scale Z_u.

    Every client adds its noise to its whole table, and to whatever else it sends, before that
    leaves it. Every device draws the noises of one client after the other. So it holds one table of
    noise at a time.

    Args:
        config: whether there is noise.
        context: of the round; its server key is that of the noise, if there is any.
        shares: a_u, the weights in the sum of the clients whose upload arrives.
        upload: the sum without noise.
        hyper: the number `ldp_scale`.
    """
    if not config.ldp_scale:
        return upload
    layout = context.layout
    shares = jnp.zeros(layout.padded).at[layout.places(context.arrived)].set(shares)

    def on_device(shares, key, client_at):
        def add(u, total):
            def noisy(total):
                mine = noise_like(config.ldp_noise, upload, key, client_at[u])
                return jax.tree.map(lambda old, new: old + shares[u] * new, total, mine)

            uploads = over_trials((shares[u] > 0).astype(jnp.int32))
            return lax.cond(uploads > 0, noisy, lambda total: total, total)

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), upload)
        return (), lax.psum(lax.fori_loop(0, layout.shard, add, nothing), AXIS)

    key, client_at = context.draws.server(), jnp.asarray(layout.client)
    _, noises = layout.on_each_device(on_device, shares, key, client_at, summed=True)
    return jax.tree.map(lambda sent, new: sent + hyper.ldp_scale * new, upload, noises)


def noise_like(kind: str, upload: Sum, key: Key[Array, ""], client: Int[Array, ""]) -> Sum:
    """One client's noise of scale 1 on all that it uploads. Array n beside the table has its key as
    if it were item I + n."""
    num_items, dim = upload.items.shape
    table = noise(key, client, jnp.arange(num_items), dim, kind)
    leaves, tree = jax.tree.flatten(upload.rest)
    own = jax.random.fold_in(key, client)
    beside = [
        DRAWS[kind](jax.random.fold_in(own, num_items + n), leaf.shape)
        for n, leaf in enumerate(leaves)
    ]
    return Sum(table, jax.tree.unflatten(tree, beside))

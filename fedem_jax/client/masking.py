"""Secure aggregation: clients mask their uploads, and the masks of all cancel in the sum.

    y_u = x_u + sum over v > u of m_uv - sum over v < u of m_uv     modulo 2^32
    sum of y_u = sum of x_u                                         modulo 2^32

x_u is what the client sends, weighted, as integers (`fedem_jax.core.fixed_point`). m_uv are random
integers from a key that u and v share (Bonawitz et al. 2017). y_u alone is uniform, whatever
x_u is, as long as one of its masks is secret. Each pair of participants has a key of its own, so
work and keys grow with the square of their number.

It is a simulation. All keys come from the seed of the run, and no client agrees on a key with
another. Uploads that get lost are not repaired, so they are refused (`MaskedUploads`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, Key, UInt32

from fedem_jax.config.shared import MaskedUploads
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.fixed_point import to_fixed_point
from fedem_jax.core.layout import AXIS
from fedem_jax.core.round import RoundContext, Sum

KEY_BYTES = 32
"""Bytes of a public key that a client sends, and that reaches all other participants (X25519)."""


def for_masks(config: MaskedUploads, sent: Any) -> Any:
    """What a client adds to the sum, as integers if uploads are masked."""
    return jax.tree.map(to_fixed_point, sent) if config.secure_sum else sent


def mask(
    key: Key[Array, ""], client: Int[Array, ""], participants: Int[Array, " P"], size: int
) -> UInt32[Array, " N"]:
    """All masks of a client, added up.

    Args:
        key: of the round; the key of a pair follows from it and from both clients.
        client: u.
        participants: all who upload, u among them.
        size: N, numbers of an upload.
    """

    def add(n, total):
        other = participants[n]
        first, second = jnp.minimum(client, other), jnp.maximum(client, other)
        shared = jax.random.fold_in(jax.random.fold_in(key, first), second)
        bits = jax.random.bits(shared, (size,), jnp.uint32)
        signed = jnp.where(client < other, bits, jnp.uint32(0) - bits)
        return total + jnp.where(client == other, jnp.uint32(0), signed)

    return lax.fori_loop(0, len(participants), add, jnp.zeros(size, jnp.uint32))


def masked_sum(config: MaskedUploads, context: RoundContext, upload: Sum) -> Sum:
    """The sum of the masked uploads, as the server gets it.

    The masks are drawn one client after the other on every device, and added up.

    Args:
        config: whether uploads are masked.
        context: of the round; all participants upload.
        upload: the sum of what they send, as integers.
    """
    if not config.secure_sum:
        return upload
    flat, in_shape = ravel_pytree(upload)
    layout, participants = context.layout, context.participants
    takes_part = jnp.zeros(layout.padded, bool).at[layout.places(participants)].set(True)

    def on_device(takes_part, whole, client_at):
        key, participants = whole

        def add(place, total):
            def masked(total):
                own = mask(key, client_at[place], participants, len(flat))
                return total + jnp.where(takes_part[place], own, jnp.uint32(0))

            uploads = over_trials(takes_part[place].astype(jnp.int32))
            return lax.cond(uploads > 0, masked, lambda total: total, total)

        nothing = jnp.zeros(len(flat), jnp.uint32)
        return (), lax.psum(lax.fori_loop(0, layout.shard, add, nothing), AXIS)

    whole, client_at = (context.draws.server(), participants), jnp.asarray(layout.client)
    _, masks = layout.on_each_device(on_device, takes_part, whole, client_at, summed=True)
    total = lax.bitcast_convert_type(flat, jnp.uint32) + masks
    return in_shape(lax.bitcast_convert_type(total, jnp.int32))


def key_bytes(config: MaskedUploads, participants: int) -> tuple[int, int]:
    """Bytes of public keys in a round, up and down: each client's goes up, and down to all
    others."""
    each = KEY_BYTES * config.secure_sum
    return each * participants, each * participants * (participants - 1)

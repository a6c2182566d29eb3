"""K-means of item rows, as the library computes it that CoFedRec's released program calls."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

MOST_STEPS = 300
"""Steps of K-means at most."""
TOLERANCE = 1e-4
"""K-means ends once its centres move by less than this share of the mean variance."""


def k_means(key: Key[Array, ""], rows: Float[Array, "I D"], number: int) -> Int[Array, " I"]:
    """Cluster of each row."""
    rows = rows - rows.mean(axis=0, keepdims=True)
    return settled(rows, spread_out(key, rows, number))


def settled(rows: Float[Array, "I D"], centres: Float[Array, "K D"]) -> Int[Array, " I"]:
    """Lloyd's steps: each centre moves to the mean of the rows next to it; one that is next to none
    stays where it was."""
    tolerance = TOLERANCE * rows.var(axis=0).mean()

    def step(loop):
        count, centres, _ = loop
        cluster = nearest(rows, centres)
        size = jnp.zeros(len(centres)).at[cluster].add(1.0)[:, None]
        total = jnp.zeros_like(centres).at[cluster].add(rows)
        new = jnp.where(size > 0, total / jnp.maximum(size, 1), centres)
        return count + 1, new, jnp.sum((new - centres) ** 2)

    def unsettled(loop):
        count, _, moved = loop
        return (count < MOST_STEPS) & (moved > tolerance)

    start = (jnp.int32(0), centres, jnp.float32(jnp.inf))
    _, centres, _ = lax.while_loop(unsettled, step, start)
    return nearest(rows, centres)


def nearest(rows: Float[Array, "I D"], centres: Float[Array, "K D"]) -> Int[Array, " I"]:
    """The centre next to each row."""
    gap = jnp.sum(centres**2, axis=1)[None, :] - 2 * rows @ centres.T
    return jnp.argmin(gap, axis=1).astype(jnp.int32)


def spread_out(key: Key[Array, ""], rows: Float[Array, "I D"], number: int) -> Float[Array, "K D"]:
    """Greedy k-means++ (Arthur, Vassilvitskii 2007): each new centre is the best of a few rows.
    They are drawn in proportion to the squared distance to the nearest centre so far."""
    attempts = 2 + int(math.log(number))

    def squared(centres):
        return jnp.sum((rows[None] - centres[:, None]) ** 2, axis=2)

    def add(k, carry):
        centres, gap = carry
        drawn = jax.random.categorical(jax.random.fold_in(key, k), jnp.log(gap), shape=(attempts,))
        left = jnp.minimum(gap[None, :], squared(rows[drawn]))
        best = jnp.argmin(left.sum(axis=1))
        return centres.at[k].set(rows[drawn[best]]), left[best]

    first = jax.random.choice(jax.random.fold_in(key, 0), rows)
    centres = jnp.zeros((number, rows.shape[1])).at[0].set(first)
    centres, _ = lax.fori_loop(1, number, add, (centres, squared(first[None])[0]))
    return centres

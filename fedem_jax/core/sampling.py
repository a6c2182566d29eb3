"""Random choices without rejection and without a sort."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Key, UInt32

HELD_OUT = 0x5E7
"""Seed of the choice of positives that are held out: the same in every run and every round."""


def is_held_out(client: Int[Array, ""], items: Int[Array, " n"], share: float) -> Bool[Array, " n"]:
    """Whether each item is held out, if it is a positive of the client.

    The choice depends on the client and the item alone. So a client that trains on the others has
    seen none of these in any round.

    Args:
        client: whose positives they are.
        items: its positives.
        share: mean share of them that is held out.
    """
    key = jax.random.fold_in(jax.random.key(HELD_OUT), client)
    drawn = jax.vmap(lambda item: jax.random.uniform(jax.random.fold_in(key, item)))(items)
    return drawn < share


def distinct_ranks(
    key: Key[Array, ""], rows: int, k: int, pool: UInt32[Array, ""]
) -> UInt32[Array, "rows {k}"]:
    """For each row, `k` distinct numbers of [0, pool), uniform, without rejection.

    The j-th number is drawn among the `pool - j` that are left and then moved past the smaller
    ones already taken. (The remainder of 32 random bits favours no number by more than
    `pool / 2^32`.)
    """
    bits = jax.random.bits(key, (rows, k)).T  # the first rows are the same for any number of rows
    taken: list[Array] = []  # in rising order, element by element
    drawn: list[Array] = []
    for j in range(k):
        rank = bits[j] % (pool - j)
        for smaller in taken:
            rank = rank + (rank >= smaller)
        drawn.append(rank)
        rising, carry = [], rank
        for other in taken:
            rising.append(jnp.minimum(other, carry))
            carry = jnp.maximum(other, carry)
        taken = [*rising, carry]
    return jnp.stack(drawn, axis=1)


def items_outside(
    barred: Int[Array, " L"], count: Int[Array, ""], ranks: UInt32[Array, "*shape"]
) -> Int[Array, "*shape"]:
    """The `ranks`-th item (from 0) among those missing from a sorted list.

    `barred[j] - j` items are missing before the j-th barred one; entries from `count` on are
    padding. A CPU finds the place by binary search. A GPU compares with all entries at once, which
    takes one kernel in place of a loop.
    """
    index = jnp.arange(barred.shape[0], dtype=barred.dtype)
    missing_before = jnp.where(index < count, barred - index, jnp.iinfo(barred.dtype).max)
    ranks = ranks.astype(barred.dtype)
    search = partial(jnp.searchsorted, side="right")
    smaller = lax.platform_dependent(
        missing_before,
        ranks,
        cpu=search,
        default=partial(search, method="compare_all"),
    )
    return ranks + smaller.astype(barred.dtype)


def without(
    values: Int[Array, " L"], count: Int[Array, ""], removed: Int[Array, " n"]
) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """A sorted list of distinct values without some of them, and how many are left.

    Args:
        values: the list; entries from `count` on are padding.
        count: its length.
        removed: values that leave it; those that it does not hold, such as -1, change nothing.
    """
    index = jnp.arange(values.shape[0], dtype=values.dtype)
    present, nothing = index < count, jnp.iinfo(values.dtype).max
    filled = jnp.where(present, values, nothing)
    place = jnp.searchsorted(filled, removed)
    found = filled.at[place].get(mode="fill", fill_value=nothing) == removed
    place = jnp.where(found, place, len(values))
    kept = present & ~jnp.zeros(values.shape, bool).at[place].set(True, mode="drop")
    new = jnp.where(kept, jnp.cumsum(kept) - 1, len(values))
    return jnp.zeros_like(values).at[new].set(values, mode="drop"), kept.sum()


SHUFFLE_ROUNDS = 12
"""Rounds of a shuffle: an element stays where it is in all of them once in 2^12 epochs."""


def shuffle(key: Key[Array, ""], count: Int[Array, ""]) -> Callable[[Array], Array]:
    """A random permutation of [0, count), without a sort: `positions [B] -> images [B]`.

    Swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012). Every round has a random k. The
    positions x and k - x (mod count) change places or not, by one random bit that both share. The
    bit comes from a multiplicative hash of the larger of the two. A sort of the samples costs
    several local steps on a CPU; this costs a fraction of one.
    """
    count = count.astype(jnp.uint32)
    bits = jax.random.bits(key, (SHUFFLE_ROUNDS, 2))
    return partial(_images, bits[:, 0] % count, bits[:, 1], count)


@jax.jit
def _images(centre, salt, count, position):
    def trade(r, here):
        there = centre[r] - here + jnp.where(here > centre[r], count, jnp.uint32(0))
        mixed = (jnp.maximum(here, there) + salt[r]) * jnp.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
        return jnp.where(mixed >> 31 == 1, there, here)

    def rounds(here, at_once):
        return lax.fori_loop(0, SHUFFLE_ROUNDS, trade, here, unroll=at_once)

    here = lax.platform_dependent(
        position.astype(jnp.uint32),
        cpu=partial(rounds, at_once=4),  # XLA's CPU code for twelve at once is ten times slower
        default=partial(rounds, at_once=SHUFFLE_ROUNDS),
    )
    return here.astype(position.dtype)

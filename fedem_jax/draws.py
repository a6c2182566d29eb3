"""Everything random in a round, apart from what is done with it.

A round asks its `Draws` for participants, samples and visiting orders. `Fresh` draws them on device
from named keys (round r: `fold_in(key, r)`, client u: `fold_in(., u)`), so that results do not
depend on how the clients are cut into blocks; a recorded run can be put in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

from fedem_jax.clients import Lists
from fedem_jax.similarity import upright


class Samples(NamedTuple):
    """One client's samples of a round: each positive, oldest first, followed by its negatives.

    Places from `count` on are padding.
    """

    items: Int[Array, " S"]
    labels: Float[Array, " S"]  # 1 for a positive, 0 for a negative
    count: Int[Array, ""]


@runtime_checkable
class Draws(Protocol):
    """The random choices of one round."""

    def participants(self) -> Int[Array, " P"]:
        """Distinct clients that train in this round."""
        ...

    def samples(self, client, capacity: int, barred_capacity: int) -> Samples:
        """Samples of one client with at most `capacity` positives."""
        ...

    def order(self, client, epoch, count) -> Callable[[Array], Array]:
        """`positions [B] -> index [B]`: samples visited at positions (< `count`) of an epoch."""
        ...

    def aggregated(self, participants: Int[Array, " P"]) -> Int[Array, " A"]:
        """Distinct participants whose tables are aggregated."""
        ...

    def server(self) -> Key[Array, ""]:
        """Key of whatever else the server draws."""
        ...

    def signs(self, axes: Float[Array, "A D"], scores: Float[Array, "A I"]) -> Float[Array, " A"]:
        """+1 or -1 for each principal axis, whose direction the eigenproblem leaves open."""
        ...


SERVER = 4
"""Tells the server's key of a round from the four that are split off."""


class Fresh(NamedTuple):
    """Draws of a new run, by keys of one round."""

    key_participants: Key[Array, ""]
    keys_samples: Key[Array, " C"]
    """Of all clients at once, as every size class would compile a derivation of its own."""
    keys_order: Key[Array, " C"]
    key_aggregated: Key[Array, ""]
    key_server: Key[Array, ""]
    lists: Lists
    num_clients: int
    num_items: int
    num_negative: int
    num_participants: int
    num_aggregated: int

    @classmethod
    def of_round(
        cls, key: Key[Array, ""], number: Int[Array, ""], lists: Lists, num_clients: int, *sizes
    ) -> Fresh:
        """The draws of round `number` of the run with this key; `sizes` are the other fields."""
        key = jax.random.fold_in(key, number)
        participants, samples, order, aggregated = jax.random.split(key, 4)
        of_client = jax.vmap(jax.random.fold_in, (None, 0))
        everyone = jnp.arange(num_clients)
        samples, order = of_client(samples, everyone), of_client(order, everyone)
        server = jax.random.fold_in(key, SERVER)
        return cls(participants, samples, order, aggregated, server, lists, num_clients, *sizes)

    def participants(self) -> Int[Array, " P"]:
        everyone = jnp.arange(self.num_clients, dtype=jnp.int32)
        if self.num_participants == self.num_clients:
            return everyone
        return jax.random.permutation(self.key_participants, everyone)[: self.num_participants]

    def samples(self, client, capacity: int, barred_capacity: int) -> Samples:
        positives, count = self.lists.positives(client, capacity)
        barred, num_barred = self.lists.barred_items(client, barred_capacity)
        ranks = distinct_ranks(
            self.keys_samples[client],
            capacity,
            self.num_negative,
            (self.num_items - num_barred).astype(jnp.uint32),
        )
        negatives = items_outside(barred, num_barred, ranks)
        items = jnp.concatenate([positives[:, None], negatives], axis=1)
        labels = jnp.zeros(items.shape).at[:, 0].set(1.0)
        return Samples(items.ravel(), labels.ravel(), count * (1 + self.num_negative))

    def order(self, client, epoch, count) -> Callable[[Array], Array]:
        return shuffle(jax.random.fold_in(self.keys_order[client], epoch), count)

    def aggregated(self, participants: Int[Array, " P"]) -> Int[Array, " A"]:
        return jax.random.permutation(self.key_aggregated, participants)[: self.num_aggregated]

    def server(self) -> Key[Array, ""]:
        return self.key_server

    def signs(self, axes: Float[Array, "A D"], scores: Float[Array, "A I"]) -> Float[Array, " A"]:
        """Every axis points to where its largest component, in absolute value, is positive."""
        return upright(axes)


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
    """The `ranks`-th item (from 0) among those missing from a sorted list, by binary search.

    `barred[j] - j` items are missing before the j-th barred one; entries from `count` on are
    padding.
    """
    index = jnp.arange(barred.shape[0], dtype=barred.dtype)
    missing_before = jnp.where(index < count, barred - index, jnp.iinfo(barred.dtype).max)
    ranks = ranks.astype(barred.dtype)
    return ranks + jnp.searchsorted(missing_before, ranks, side="right").astype(barred.dtype)


SHUFFLE_ROUNDS = 12
"""Rounds of a shuffle: an element stays where it is in all of them once in 2^12 epochs."""


def shuffle(key: Key[Array, ""], count: Int[Array, ""]) -> Callable[[Array], Array]:
    """A random permutation of [0, count), without a sort: `positions [B] -> images [B]`.

    Swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012): in every round the positions x and
    k - x (mod count), for a random k, change places or not by one random bit that both share. The
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

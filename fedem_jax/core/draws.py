"""The random choices of a round.

A round asks its `Draws` for participants, samples and visiting orders. `KeyedDraws` draws them on
device from named keys: round r `fold_in(key, r)`, client u `fold_in(., u)`. So results do not
depend on how the clients are cut into blocks. A recorded run can be put in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fedem_jax.core.linalg import canonical_sign
from fedem_jax.core.lists import Lists
from fedem_jax.core.sampling import (
    distinct_ranks,
    is_held_out,
    items_outside,
    shuffle,
    without,
)


class HoldOut(NamedTuple):
    """Positives that local training does not use, of each client the same ones in every round."""

    share: float
    """Mean share of a client's positives."""
    unseen: bool = False
    """Whether local training never draws them as negatives either, which leaks. Else it draws them
    as often as any other item that it does not train on."""


class Samples(NamedTuple):
    """One client's samples of a round: each positive, oldest first, followed by its negatives.

    Places from `count` on are padding.
    """

    items: Int[Array, " S"]
    labels: Float[Array, " S"]  # 1 for a positive, 0 for a negative
    count: Int[Array, ""]
    held_out: Bool[Array, " S"] | None = None
    """Samples of held-out positives and of their negatives; None: no positive is held out."""

    def positives(self, capacity: int) -> Samples:
        """The positives alone, in so many places. Where nothing else is asked for, XLA draws no
        negatives."""
        items, labels, held_out = jax.tree.map(
            lambda leaf: leaf.reshape(capacity, -1)[:, 0],
            (self.items, self.labels, self.held_out),
        )
        return Samples(items, labels, self.count // (len(self.items) // capacity), held_out)


@runtime_checkable
class Draws(Protocol):
    """The random choices of one round."""

    def participants(self) -> Int[Array, " P"]:
        """Distinct clients that train in this round."""
        ...

    def samples(
        self, client, capacity: int, barred_capacity: int, hold_out: HoldOut | None = None
    ) -> Samples:
        """Samples of one client with at most `capacity` positives, some of them held out."""
        ...

    def order(self, client, epoch, count) -> Callable[[Array], Array]:
        """`positions [B] -> index [B]`: samples visited at positions (< `count`) of an epoch."""
        ...

    def epochs(self, client, most: int, stragglers: float) -> Int[Array, ""]:
        """Local epochs that a client has time for: fewer than `most` by the chance `stragglers`."""
        ...

    def uploaders(self, participants: Int[Array, " P"]) -> Int[Array, " A"]:
        """Distinct participants whose tables are aggregated."""
        ...

    def server(self) -> Key[Array, ""]:
        """Key of whatever else the server draws."""
        ...

    def signs(self, axes: Float[Array, "A D"], scores: Float[Array, "A I"]) -> Float[Array, " A"]:
        """+1 or -1 for each principal axis, whose direction the eigenproblem leaves open."""
        ...


SERVER = 4
"""Folded into the key of a round to make that of the server."""


class KeyedDraws(NamedTuple):
    """Draws of a new run, by keys of one round."""

    key_participants: Key[Array, ""]
    keys_samples: Key[Array, " C"]
    """Of all clients at once, as every size class would compile a derivation of its own."""
    keys_order: Key[Array, " C"]
    key_uploaders: Key[Array, ""]
    key_server: Key[Array, ""]
    lists: Lists
    num_clients: int
    num_items: int
    num_negative: int
    num_participants: int
    num_uploaders: int

    @classmethod
    def of_round(
        cls,
        key: Key[Array, ""],
        number: Int[Array, ""],
        lists: Lists,
        num_clients: int,
        num_items: int,
        num_negative: int,
        num_participants: int,
        num_uploaders: int,
    ) -> KeyedDraws:
        """The draws of round `number` of the run with this key.

        Args:
            key: of the draws of all rounds.
            number: of the round, from 0.
            lists: training positives and barred items.
            num_clients, num_items, num_negative, num_participants, num_uploaders: sizes.
        """
        key = jax.random.fold_in(key, number)
        participants, samples, order, uploaders = jax.random.split(key, 4)
        of_client = jax.vmap(jax.random.fold_in, (None, 0))
        everyone = jnp.arange(num_clients)
        samples, order = of_client(samples, everyone), of_client(order, everyone)
        server = jax.random.fold_in(key, SERVER)
        return cls(
            key_participants=participants,
            keys_samples=samples,
            keys_order=order,
            key_uploaders=uploaders,
            key_server=server,
            lists=lists,
            num_clients=num_clients,
            num_items=num_items,
            num_negative=num_negative,
            num_participants=num_participants,
            num_uploaders=num_uploaders,
        )

    def participants(self) -> Int[Array, " P"]:
        everyone = jnp.arange(self.num_clients, dtype=jnp.int32)
        if self.num_participants == self.num_clients:
            return everyone
        return jax.random.permutation(self.key_participants, everyone)[: self.num_participants]

    def samples(
        self, client, capacity: int, barred_capacity: int, hold_out: HoldOut | None = None
    ) -> Samples:
        positives, count = self.lists.positives(client, capacity)
        barred, num_barred = self.lists.barred_items(client, barred_capacity)

        def negatives_outside(barred, num_barred):
            pool = (self.num_items - num_barred).astype(jnp.uint32)
            key = self.keys_samples[client]
            ranks = distinct_ranks(key, capacity, self.num_negative, pool)
            return items_outside(barred, num_barred, ranks)

        negatives, held_out = negatives_outside(barred, num_barred), None
        if hold_out is not None:
            held_out = is_held_out(client, positives, hold_out.share)
            if not hold_out.unseen:
                present = jnp.arange(capacity) < count
                drawn_too = jnp.where(held_out & present, positives, -1)
                wider = negatives_outside(*without(barred, num_barred, drawn_too))
                negatives = jnp.where(held_out[:, None], negatives, wider)
            held_out = jnp.repeat(held_out, 1 + self.num_negative)
        items = jnp.concatenate([positives[:, None], negatives], axis=1)
        labels = jnp.zeros(items.shape).at[:, 0].set(1.0)
        count = count * (1 + self.num_negative)
        return Samples(items.ravel(), labels.ravel(), count, held_out)

    def order(self, client, epoch, count) -> Callable[[Array], Array]:
        return shuffle(jax.random.fold_in(self.keys_order[client], epoch), count)

    def epochs(self, client, most: int, stragglers: float) -> Int[Array, ""]:
        key = jax.random.fold_in(self.keys_order[client], most)  # its last epoch is `most` - 1
        key_chance, key_part = jax.random.split(key)
        part = jax.random.randint(key_part, (), 1, most)
        return jnp.where(jax.random.uniform(key_chance) < stragglers, part, most)

    def uploaders(self, participants: Int[Array, " P"]) -> Int[Array, " A"]:
        return jax.random.permutation(self.key_uploaders, participants)[: self.num_uploaders]

    def server(self) -> Key[Array, ""]:
        return self.key_server

    def signs(self, axes: Float[Array, "A D"], scores: Float[Array, "A I"]) -> Float[Array, " A"]:
        """Every axis points to where its largest component, in absolute value, is positive."""
        return canonical_sign(axes)

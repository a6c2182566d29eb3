"""One client's samples of a round, over the rows of its item table that they touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedem_jax.config.base import Config
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import SizeClass

OFFSET = 1e-5
"""Added to the loss that a change of the loss is relative to (released program of FedEM)."""


class Rule(NamedTuple):
    """How a client trains, and when it stops (released program)."""

    batch_size: int
    local_epochs: int
    threshold: Float[Array, ""]
    """Relative change of the running loss in an epoch below which the client stops."""
    offset: float = OFFSET
    """Added to the loss that the change is relative to."""
    skip: bool = False
    """Whether a client whose numbers are not finite is left out of the round, as if it had not
    trained."""

    @classmethod
    def of(cls, config: Config, threshold: Float[Array, ""], offset: float = OFFSET) -> Rule:
        """The rule of a configuration."""
        skip = config.on_nonfinite == "skip-client"
        return cls(config.batch_size, config.local_epochs, threshold, offset, skip)


class ClientSamples(NamedTuple):
    """One client's samples of a round over the rows of its item table that they touch.

    Adam starts every round with moments of zero, so a row outside the samples would not move:
    training only these M rows, the compact table, is exact.
    """

    rows: Int[Array, " M"]
    """Item of each row of the compact table; I where the row is not in use."""
    labels: Float[Array, " M"]
    """Label of the row: an item is never both a positive and a negative of the same client."""
    row_of: Int[Array, " S"]
    """Row of each sample."""
    count: Int[Array, ""]
    """Samples; places from here on are padding."""
    order: Callable[[Array, Array], Callable[[Array], Array]]
    """`(epoch, count) -> (positions [B] -> index [B])`: samples visited there, out of so many."""
    rule: Rule
    client: Int[Array, ""]
    """Whose it is."""


def client_samples(
    draws: Draws, client: Array, size: SizeClass, num_items: int, rule: Rule
) -> ClientSamples:
    """Draw a client's samples of a round.

    Each touched item gets a row, in order of its first sample. Where there is room for all items,
    every item has the row of its number.

    Args:
        draws: of the round.
        client: whose samples.
        size: its size class.
        num_items: I.
        rule: how long it trains.
    """
    drawn = draws.samples(client, size.positives, size.barred)
    length = drawn.items.shape[0]
    position = jnp.arange(length, dtype=jnp.int32)
    present = position < drawn.count
    if size.rows >= num_items:
        rows, row_of = jnp.arange(num_items, dtype=jnp.int32), drawn.items
    else:
        touched = jnp.where(present, drawn.items, num_items)
        first = jnp.full(num_items, length, jnp.int32).at[touched].min(position, mode="drop")
        first = first[drawn.items]
        new = present & (first == position)
        row = jnp.cumsum(new, dtype=jnp.int32) - 1
        row_of = row[first]
        rows = jnp.full(size.rows, num_items, jnp.int32)
        rows = rows.at[jnp.where(new, row, size.rows)].set(drawn.items, mode="drop")
    positive = jnp.where(present, drawn.labels, 0.0)
    labels = jnp.zeros(rows.shape).at[row_of].max(positive, mode="drop")

    def order(epoch, count):
        if length <= rule.batch_size:
            return lambda position: position  # one batch holds all samples
        return draws.order(client, epoch, count)

    return ClientSamples(rows, labels, row_of, drawn.count, order, rule, client)


HOLD_OUT = 0x5E7
"""Seed of the choice of positives that are held out: the same in every run."""


def hold_out(
    samples: ClientSamples, share: float, group: int
) -> tuple[ClientSamples, ClientSamples]:
    """Split a client's samples: most of its positives with their negatives, and the rest.

    Which positives are held out depends on the client and the item alone. So a client that trains
    on the first part has seen none of the second in any round.

    Args:
        samples: in groups, each a positive and its negatives.
        share: mean share of the positives that are held out.
        group: samples of a group, 1 + number of negatives.
    """
    position = jnp.arange(samples.row_of.shape[0], dtype=jnp.int32)
    key = jax.random.fold_in(jax.random.key(HOLD_OUT), samples.client)
    positive = samples.rows[samples.row_of[::group]]
    drawn = jax.vmap(lambda item: jax.random.uniform(jax.random.fold_in(key, item)))(positive)
    held_out = (drawn < share)[position // group]

    def part(chosen):
        chosen = chosen & (position < samples.count)
        new = jnp.where(chosen, jnp.cumsum(chosen) - 1, len(position))
        row_of = jnp.zeros_like(samples.row_of).at[new].set(samples.row_of, mode="drop")
        return samples._replace(row_of=row_of, count=chosen.sum())

    return part(~held_out), part(held_out)

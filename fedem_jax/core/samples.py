"""One client's samples of a round, over the rows of its item table that they touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.config.base import Config
from fedem_jax.core.draws import Draws, HoldOut
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
    hold_out: HoldOut | None = None
    """Positives that local training does not use; None: it uses all."""
    stragglers: float = 0.0
    """Chance that the client has no time for all epochs."""
    negatives: bool = True
    """Whether it trains on negatives. Without them its rows are its positives alone."""

    @classmethod
    def of(
        cls,
        config: Config,
        threshold: Float[Array, ""],
        offset: float = OFFSET,
        hold_out: HoldOut | None = None,
    ) -> Rule:
        """The rule of a configuration."""
        skip = config.on_nonfinite == "skip-client"
        sizes = (config.batch_size, config.local_epochs)
        return cls(*sizes, threshold, offset, skip, hold_out, config.stragglers)


class ClientSamples(NamedTuple):
    """One client's samples of a round over the rows of its item table that they touch.

    Adam starts every round with moments of zero, so a row outside the samples would not move:
    training only these M rows, the compact table, is exact.
    """

    rows: Int[Array, " M"]
    """Item of each row of the compact table; I where the row is not in use."""
    labels: Float[Array, " M"]
    """Label of the row: an item is never both a positive and a negative among these samples."""
    row_of: Int[Array, " S"]
    """Row of each sample."""
    count: Int[Array, ""]
    """Samples; places from here on are padding."""
    order: Callable[[Array, Array], Callable[[Array], Array]]
    """`(epoch, count) -> (positions [B] -> index [B])`: samples visited there, out of so many."""
    rule: Rule
    held_out: ClientSamples | None = None
    """Samples over the same rows that local training does not use, with labels of their own: a
    held-out positive may be a negative of local training. None: nothing is held out."""
    epochs: Int[Array, ""] | None = None
    """Epochs that it has time for; None: all of the rule."""


def client_samples(
    draws: Draws,
    client: Array,
    size: SizeClass,
    num_items: int,
    rule: Rule,
    compact: bool = False,
) -> ClientSamples:
    """Draw a client's samples of a round.

    Each touched item gets a row, in order of its first sample. Where there is room for all items,
    every item has the row of its number, unless the table shall be compact.

    Args:
        draws: of the round.
        client: whose samples.
        size: its size class.
        num_items: I.
        rule: how long it trains.
        compact: number the touched items alone, for work that follows the rows in use.
    """
    holding_out = () if rule.hold_out is None else (rule.hold_out,)
    drawn, room = draws.samples(client, size.positives, size.barred, *holding_out), size.rows
    if not rule.negatives:
        drawn, room, compact = drawn.positives(size.positives), size.positives, True
    length = drawn.items.shape[0]
    position = jnp.arange(length, dtype=jnp.int32)
    present = position < drawn.count
    if size.rows >= num_items and not compact:
        rows, row_of = jnp.arange(num_items, dtype=jnp.int32), drawn.items
    else:
        touched = jnp.where(present, drawn.items, num_items)
        first = jnp.full(num_items, length, jnp.int32).at[touched].min(position, mode="drop")
        first = first[drawn.items]
        new = present & (first == position)
        row = jnp.cumsum(new, dtype=jnp.int32) - 1
        row_of = row[first]
        rows = jnp.full(room, num_items, jnp.int32)
        rows = rows.at[jnp.where(new, row, room)].set(drawn.items, mode="drop")
    positive = jnp.where(present, drawn.labels, 0.0)
    labels = jnp.zeros(rows.shape).at[row_of].max(positive, mode="drop")

    def order(epoch, count):
        if length <= rule.batch_size:
            return lambda position: position  # one batch holds all samples
        return draws.order(client, epoch, count)

    samples = ClientSamples(rows, labels, row_of, drawn.count, order, rule)
    if rule.stragglers:
        epochs = draws.epochs(client, rule.local_epochs, rule.stragglers)
        samples = samples._replace(epochs=epochs)
    if drawn.held_out is None:
        return samples
    held_out = part_of(samples, drawn.labels, drawn.held_out)
    return part_of(samples, drawn.labels, ~drawn.held_out)._replace(held_out=held_out)


def over_all_items(samples: ClientSamples, num_items: int) -> ClientSamples:
    """The same samples, over a table of all items: the row of an item has its number."""
    if samples.rows.shape[0] >= num_items:
        return samples
    labels = jnp.zeros(num_items).at[samples.rows].set(samples.labels, mode="drop")
    every, row_of = jnp.arange(num_items, dtype=jnp.int32), samples.rows[samples.row_of]
    held_out = samples.held_out
    if held_out is not None:
        held_out = over_all_items(held_out, num_items)
    return samples._replace(rows=every, labels=labels, row_of=row_of, held_out=held_out)


def part_of(
    samples: ClientSamples, labels: Float[Array, " S"], chosen: Bool[Array, " S"]
) -> ClientSamples:
    """Some of a client's samples, in their order, with the labels that rows have among them.

    Args:
        samples: of the client.
        labels: of each sample.
        chosen: which of them.
    """
    chosen = chosen & (jnp.arange(len(chosen)) < samples.count)
    new = jnp.where(chosen, jnp.cumsum(chosen) - 1, len(chosen))
    row_of = jnp.zeros_like(samples.row_of).at[new].set(samples.row_of, mode="drop")
    positive = jnp.where(chosen, labels, 0.0)
    labels = jnp.zeros_like(samples.labels).at[samples.row_of].max(positive, mode="drop")
    return samples._replace(labels=labels, row_of=row_of, count=chosen.sum())

"""A round of local training: who takes part, who works in which block, what is written back.

A method says what one client does (`Phase.client_round`). It gets back the state of all clients,
what they report, and the sum of what they sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from fedem_jax.config.base import Config
from fedem_jax.config.shared import is_fused
from fedem_jax.core.algorithm import Info, State
from fedem_jax.core.blocks import BLOCK, for_each_block
from fedem_jax.core.draws import Draws, HoldOut
from fedem_jax.core.finite import finite_rows
from fedem_jax.core.layout import AXIS, Layout, SizeClass
from fedem_jax.core.samples import OFFSET, ClientSamples, Rule, client_samples
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.core.table_storage import to_storage


class RoundContext(NamedTuple):
    """What all clients have in common in a round."""

    layout: Layout
    """Where the clients are."""
    draws: Draws
    """The random choices of the round."""
    rule: Rule
    """How long a client trains."""
    participants: Int[Array, " P"]
    """Clients that train."""
    arrived: Int[Array, " A"]
    """Those whose upload arrives, if all participants upload: all, but with `dropout`."""
    compact: bool = False
    """Whether a client's table holds the rows of its samples alone, as in `client_samples`."""

    @classmethod
    def of(
        cls,
        config: Config,
        layout: Layout,
        draws: Draws,
        threshold: Float[Array, ""] | float = 0.0,
        offset: float = OFFSET,
        hold_out: HoldOut | None = None,
    ) -> RoundContext:
        """The context of a round.

        Args:
            config: how clients train.
            layout: where they are.
            draws: the random choices of the round.
            threshold, offset: of the early stop, as in `Rule`; 0: nobody stops early.
            hold_out: positives that local training does not use.
        """
        rule = Rule.of(config, jnp.asarray(threshold, jnp.float32), offset, hold_out)
        participants = draws.participants()
        arrived = draws.uploaders(participants) if config.dropout else participants
        return cls(layout, draws, rule, participants, arrived, is_fused(config))

    def samples_of(self, clients: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """Samples that each of these clients trains on, positives and negatives."""
        return jnp.asarray(self.layout.samples)[self.layout.places(clients)]


def everybody(clients: Any) -> Bool[Array, " C"]:
    """All clients, as the mask of a phase."""
    return jnp.ones(len(jax.tree.leaves(clients)[0]), bool)


class Phase(NamedTuple):
    """Something that some of the participants do in a round."""

    client_round: Callable[[ClientSamples, Any, Any, Array], Change]
    """`(samples, clients, server, place) -> change` of one client. It gets all clients of its
    device, so that it reads no more than the rows that it needs: `clients.items[place, rows]`."""
    chosen: Callable[[Any], Bool[Array, " C"]] = everybody
    """`(clients) -> mask` of those that do it."""
    classes: Sequence[SizeClass] | None = None
    """Size classes that they are sorted into; None: those of the layout."""
    most: int | None = None
    """Most clients that do it in a round, if it is known."""


class Change(NamedTuple):
    """What a round changed at one client."""

    fields: dict[str, Any]
    """New values of whole fields of the clients' state, such as the private parameters."""
    trained: Trained
    rows: Int[Array, " M"] | None = None
    """Items of the rows that changed in the field `items`, its table; I: none."""
    table: Float[Array, "M D"] | None = None
    """Those rows."""
    sent: Contribution | None = None
    """What it adds to the sum that the server receives."""


class Trained(NamedTuple):
    """What came of the local epochs, beside the parameters."""

    running: Float[Array, " E"]
    """Mean loss of all samples seen so far in the round, after each epoch; NaN after the stop.
    Recorded runs are compared by it."""
    loss: Float[Array, ""]
    """The last running loss."""
    epochs: Int[Array, ""]
    """Epochs run."""


class Contribution(NamedTuple):
    """What one client adds to a sum over the clients, which is all that the server receives."""

    rows: Int[Array, " M"]
    """Items of its rows; I: none."""
    table: Num[Array, "M D"]
    """Those rows of its item table, less the common table, times its weight."""
    rest: Any
    """Anything else, times its weight."""


class Sum(NamedTuple):
    """Contributions of all participants, added up."""

    items: Num[Array, "I D"]
    rest: Any


def train_clients(
    context: RoundContext, phases: Sequence[Phase], state: State, nothing: Sum | None = None
) -> tuple[Any, Info, Any]:
    """All participants, phase after phase, block after block, every device its own clients.

    A client that `rule.skip` leaves out changes nothing and sends nothing. One whose upload does
    not arrive keeps its changes, and adds nothing to the sum.

    Args:
        context: of the round.
        phases: what the participants do; each does at most one of them.
        state: before the round.
        nothing: zeros that the sum of what clients send starts from; None: nobody sends.

    Returns:
        The clients, what they report, and the sum of what they sent.
    """
    layout, draws, rule, participants, arrived, compact = context
    nobody = jnp.zeros(layout.padded, bool)
    takes_part = nobody.at[layout.places(participants)].set(True)
    arrives = None  # of all that take part
    if len(arrived) < len(participants):
        arrives = nobody.at[layout.places(arrived)].set(True)

    def on_device(clients, server, takes_part, client_at, members, arrives):
        def block(client_round, size: SizeClass, places, carry):
            clients, info, total = carry

            def one(place):
                client = client_at.at[place].get(mode="fill", fill_value=layout.nobody)
                samples = client_samples(draws, client, size, layout.num_items, rule, compact)
                return client_round(samples, clients, server, place)

            new = jax.vmap(one, axis_name=BLOCK)(places)
            skipped = info.skipped
            if skipped is not None:
                results = (new.fields, new.table, new.sent, new.trained.loss)
                lost = ~finite_rows(results, len(places))
                skipped = skipped.at[places].set(lost, mode="drop")
                places = jnp.where(lost, layout.shard, places)  # no place: its writes are dropped
            info = Info(
                loss=info.loss.at[places].set(new.trained.loss, mode="drop"),
                epochs=info.epochs.at[places].set(new.trained.epochs, mode="drop"),
                skipped=skipped,
            )
            heard = places < layout.shard
            if arrives is not None:
                heard &= arrives.at[places].get(mode="fill", fill_value=False)
            total = added(total, new.sent, heard)
            return written(clients, places, new), info, total

        chosen = [takes_part & phase.chosen(clients) for phase in phases]
        idle = Info(
            jnp.full(layout.shard, jnp.nan),
            jnp.zeros(layout.shard, jnp.int32),
            jnp.zeros(layout.shard, bool) if rule.skip else None,
        )
        carry = (clients, idle, nothing)
        for phase, mask, sizes, of_device in zip(phases, chosen, classes, members, strict=True):
            work = partial(block, phase.client_round)
            carry = for_each_block(work, carry, mask, sizes, of_device, layout, phase.most)
        clients, info, total = carry
        return (clients, info), lax.psum(total, AXIS)

    classes = [layout.classes if phase.classes is None else phase.classes for phase in phases]
    members = [[jnp.asarray(size.members) for size in sizes] for sizes in classes]
    client_at = jnp.asarray(layout.client)
    (clients, info), total = layout.on_each_device(
        on_device, state.clients, state.server, takes_part, client_at, members, arrives, summed=True
    )
    return clients, info, total


def written(clients: Any, places: Int[Array, " B"], new: Change) -> Any:
    """The clients with the changes of a block; places one past the last are dropped."""

    def put(old, value):
        return old.at[places].set(value, mode="drop")

    fields = {
        name: jax.tree.map(put, getattr(clients, name), value) for name, value in new.fields.items()
    }
    if new.rows is None or new.table is None:
        return clients._replace(**fields)
    if isinstance(clients.items, SparseTables):
        items = clients.items.scatter(places, new.rows, new.table)
    else:
        table = to_storage(new.table, clients.items.dtype)
        items = clients.items.at[places[:, None], new.rows].set(table, mode="drop")
    return clients._replace(items=items, **fields)


def added(total: Sum | None, sent: Contribution | None, present: Bool[Array, " B"]) -> Sum | None:
    """The sum with the contributions of a block, of those clients that are there."""
    if total is None or sent is None:
        return total
    rows = jnp.where(present[:, None], sent.rows, total.items.shape[0])

    def plus(old, values):
        there = present.reshape(-1, *[1] * (values.ndim - 1))
        return old + jnp.where(there, values, 0).sum(axis=0)

    items = total.items.at[rows].add(sent.table, mode="drop")
    return Sum(items, jax.tree.map(plus, total.rest, sent.rest))


def training_scratch(
    layout: Layout, dim: int, block: int, tables: int = 1, visits: int = 0, pairs: int = 0
) -> dict[str, int]:
    """Numbers that XLA keeps at once to train and to evaluate a block of clients.

    train: rows, both moments, gradient and update, [D M] each; 4 numbers a sample, 1 an item.
    evaluate: so many `tables`, [I D], and 8 numbers an item for scores and ranks.

    Args:
        layout: the size classes.
        dim: D.
        block: clients side by side.
        tables: item tables of a client that evaluation holds.
        visits: numbers that are kept for each positive of a client beside these.
        pairs: numbers that a step of a client keeps beside these.
    """
    num_items, shard = layout.num_items, layout.shard

    def of_class(size: SizeClass) -> int:
        each = size.rows * (5 * dim + 4) + num_items + visits * size.positives + pairs
        return min(block, size.members.shape[1]) * each

    return {
        "train": max(map(of_class, layout.classes)),
        "evaluate": min(block, shard) * num_items * (tables * dim + 8),
    }

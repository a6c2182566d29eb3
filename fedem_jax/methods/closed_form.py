"""What the references with a closed form share: interactions pooled at the server, ready at once.

    the server:  X <- the training items of all clients, a row for each client, 0 or 1
                 table <- solve(X' X)                                in the first round alone
    score of client u:  x_u table

Further rounds change nothing. A repeated interaction counts once. The loss that a round reports is
the mean over all items of the squared error of x_ui. Every device counts for its own clients. The
server's work is done on each device alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from fedem_jax.config.references import ClosedForm
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, hyper_of
from fedem_jax.core.blocks import for_each_block, over_trials
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout, SizeClass
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage


class Clients(NamedTuple):
    """One row for each client; the server's here, as all else."""

    user: UInt8[Array, "C W"]
    """x_u: whether each item is in the client's training set, a bit each; W = I / 8, rounded up."""


class Server(NamedTuple):
    """What all clients share."""

    items: Num[Array, "I I"]
    """Weight of the client's item j, the row, in the score of item i, the column."""
    ready: Int[Array, ""]
    """1 once `items` is computed, else 0."""


def item_weights(
    config: ClosedForm, layout: Layout, hyper: type[Any], solve: Callable[..., Array], copies: int,
    predicted: Callable[[Array, Array], Array] = jnp.matmul,
) -> Algorithm:  # fmt: skip
    """A reference that scores an item by its weights to the items that the client has.

    Args:
        config: its settings.
        layout: places of the clients.
        hyper: its numbers, a class of type NamedTuple.
        solve: `(X' X, hyper) -> table`, [I, I] both; X' X counts the clients with both items.
        copies: arrays of [I, I] that `solve` needs at once, with argument and result.
        predicted: `(x [B I], table) -> [B I]`, what the loss compares with x.
    """
    stored, num_items = storage_dtype(config), layout.num_items

    def init(key: Key[Array, ""], hyper: Any) -> State:
        table = to_storage(jnp.zeros((num_items, num_items)), stored)
        return State(nobody(layout), Server(table, jnp.int32(0)))

    def round(draws: Draws, state: State, hyper: Any) -> tuple[State, Info]:
        clients = pooled(config, layout, draws)

        def solved(_, table):
            return to_storage(solve(together(layout, clients), hyper), stored)

        # a loop that ends at once when the table is there; a branch would be taken by all trials
        left = over_trials(1 - state.server.ready)
        table = lax.fori_loop(0, left, solved, state.server.items)
        weights = from_storage(table)
        loss = squared_error(layout, clients, lambda x: predicted(x, weights))
        return State(clients, Server(table, jnp.int32(1))), once(layout, loss)

    def score(state: State, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I"]:
        return unpacked(state.clients.user[places], num_items) @ from_storage(state.server.items)

    def scratch(block: int) -> dict[str, int]:
        """Solve: the copies, and a block of clients to count. Fit and evaluate: the table in
        float32, and a block of clients with their scores."""
        return {
            **pooling_scratch(config, layout, block),
            "solve": copies * num_items**2 + block * num_items,
            "fit": num_items**2 + 3 * block * num_items,
            "evaluate": num_items**2 + 9 * block * num_items,
        }

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(hyper, config),
        traffic=Traffic(up=0, down=0),
        scratch=scratch,
        log_odds=False,
    )


def nobody(layout: Layout) -> Clients:
    """Clients without items."""
    return Clients(jnp.zeros((layout.padded, -(-layout.num_items // 8)), jnp.uint8))


def unpacked(user: UInt8[Array, "*B W"], num_items: int) -> Float[Array, "*B I"]:
    """x_u of clients as 0 and 1."""
    return jnp.unpackbits(user, axis=-1, count=num_items).astype(jnp.float32)


def once(layout: Layout, loss: Float[Array, " C"]) -> Info:
    """What a round reports: every client's interactions are gone through once."""
    present = jnp.asarray(layout.client < layout.num_clients)
    return Info(jnp.where(present, loss, jnp.nan), present.astype(jnp.int32))


def pooled(config: ClosedForm, layout: Layout, draws: Draws) -> Clients:
    """The training items of all clients. The negatives that come with them are not used."""
    drawn, num_items = 1 + config.num_negative, layout.num_items

    def on_device(client_at, _, members):
        def block(size: SizeClass, places, user):
            def one(client):
                items, _, count, _ = draws.samples(client, size.positives, size.barred)
                there = jnp.arange(size.positives) * drawn < count
                own = jnp.where(there, items.reshape(-1, drawn)[:, 0], num_items)
                return jnp.packbits(jnp.zeros(num_items, bool).at[own].set(True, mode="drop"))

            client = client_at.at[places].get(mode="fill", fill_value=layout.nobody)
            return user.at[places].set(jax.vmap(one)(client), mode="drop")

        start, everybody = nobody(layout).user[: layout.shard], jnp.ones(layout.shard, bool)
        return for_each_block(block, start, everybody, layout.classes, members, layout)

    members = [jnp.asarray(size.members) for size in layout.classes]
    return Clients(layout.on_each_device(on_device, jnp.asarray(layout.client), (), members))


def together(layout: Layout, clients: Clients) -> Float[Array, "I I"]:
    """X' X: how many clients have both items; exact up to 2^24 clients."""

    def add(x, places, nothing, total):
        return nothing, total + x.T @ x

    return visit(layout, clients, add, (), jnp.zeros((layout.num_items, layout.num_items)))[1]


def squared_error(
    layout: Layout, clients: Clients, predicted: Callable[[Array], Array]
) -> Float[Array, " C"]:
    """Mean over all items of the squared error of x_ui; `predicted`: `x [B I] -> [B I]`."""

    def add(x, places, loss, nothing):
        lost = jnp.mean((x - predicted(x)) ** 2, axis=1)
        return loss.at[places].set(lost, mode="drop"), nothing

    return visit(layout, clients, add, jnp.zeros(layout.shard), ())[0]


def visit(
    layout: Layout, clients: Clients, work: Callable[..., tuple[Any, Any]], own: Any, total: Any
) -> tuple[Any, Any]:
    """Fold `work` over blocks of all clients.

    Args:
        layout: places of the clients.
        clients: whose items are read.
        work: `(x [B I], places [B], own, total) -> (own, total)`; places that no client fills have
            no items, and writes to them are dropped.
        own: what each device starts from, with its clients first.
        total: what each device adds to; the devices are summed in the end.
    """

    def on_device(user, _, members):
        def block(size: SizeClass, places, carry):
            bits = user.at[places].get(mode="fill", fill_value=0)
            return work(unpacked(bits, layout.num_items), places, *carry)

        everybody = jnp.ones(layout.shard, bool)
        found = for_each_block(block, (own, total), everybody, layout.classes, members, layout)
        return found[0], lax.psum(found[1], AXIS)

    members = [jnp.asarray(size.members) for size in layout.classes]
    return layout.on_each_device(on_device, clients.user, (), members, summed=True)


def pooling_scratch(config: ClosedForm, layout: Layout, block: int) -> dict[str, int]:
    """Pool: samples of a block of clients, and a mark for each item."""
    most = max(size.positives for size in layout.classes)
    return {"pool": block * (most * (1 + config.num_negative) + layout.num_items)}

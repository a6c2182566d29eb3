"""FCF: federated collaborative filtering (Ammad-ud-din et al. 2019), in its original form; written
from the paper, since no program was released.

    clients, in parallel:  x_u = (Y' C_u Y + lambda I)^-1 Y' C_u y_u,  c_ui = 1 + alpha y_ui
                           upload f_ui = c_ui (y_ui - x_u . y_i) x_u, for all items i
    server:                Y <- a step of Adam along g_i = -2 sum_u f_ui + 2 lambda y_i

y_ui is 1 if client u interacted with item i, else 0. All items enter, nothing is sampled, so
`local_epochs`, `batch_size`, `num_negative` and `bce` have no effect. After the last step of a
round its participants solve for the new table once more, and rank with that; a client that sits
out ranks by the new table, too, but with the vector of its last round. Each step costs a
participant a table down and a gradient up: a round ends with the table that the next starts from.

With s_ui = x_u . y_i, both sums over all items are short. Y' C_u Y is Y' Y + alpha sum y_i y_i'
over the client's own items. f_ui is -s_ui x_u, plus (1 + alpha - alpha s_ui) x_u for its own items.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.closed_form import Solved, pull, side_by_side, solved, solving_scratch
from fedem_jax.config.settings import FCF
from fedem_jax.core.algorithm import Algorithm, Info, Newcomer, State, Traffic, copies, hyper_of
from fedem_jax.core.blocks import for_each_block
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout, SizeClass
from fedem_jax.core.round import RoundContext
from fedem_jax.core.samples import Rule, client_samples
from fedem_jax.core.table_storage import (
    everybodys_table,
    from_storage,
    storage_dtype,
    to_storage,
)
from fedem_jax.models.mf import item_table
from fedem_jax.server.averaging import adam_step


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Y_0 and x_0."""
    confidence: Float[Array, ""]
    """alpha: weight of an interaction over the rest."""
    regularization: Float[Array, ""]
    """lambda: L2 penalty of x_u and Y."""
    lr_server: Float[Array, ""]
    """Adam step of Y."""
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    """Decay of Adam's first and second moments."""


class Clients(NamedTuple):
    """What the clients keep."""

    user: Float[Array, "C D"]
    """x_u; it never leaves its client."""


class Upload(NamedTuple):
    """All that the server sees: what the participants send, added up."""

    items: Float[Array, "I D"]
    """sum_u f_ui."""


class Server(NamedTuple):
    """The common table, which all participants download, and what moves it."""

    items: Num[Array, "I D"]
    """Y."""
    moments: optax.OptState
    """Adam's, kept over the rounds."""


def fcf(config: FCF, layout: Layout) -> Algorithm:
    """FCF on one federation; the arguments are those of `local_only`."""
    stored, dim, num_items = storage_dtype(config), config.dim, layout.num_items
    num_participants, num_arrived = config.round_sizes(layout.num_clients)
    rule = Rule.of(config, jnp.float32(0))._replace(negatives=False)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        key_items, key_user, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, dim, hyper.init_scale)
        user = hyper.init_scale * jax.random.normal(key_user, (dim,))
        moments = optax.scale_by_adam().init(table)
        return State(Clients(copies(user, layout)), Server(to_storage(table, stored), moments))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context, nobody = RoundContext.of(config, layout, draws), jnp.zeros(layout.padded, bool)
        takes_part = nobody.at[layout.places(context.participants)].set(True)
        arrives = nobody.at[layout.places(context.arrived)].set(True)

        def exchange(_, carry):
            server, _ = carry
            loss, upload = gathered(draws, takes_part, arrives, from_storage(server.items), hyper)
            return serve(server, upload, hyper), loss

        start = (state.server, jnp.full(layout.padded, jnp.nan))
        server, loss = lax.fori_loop(0, config.server_steps, exchange, start)
        user = users(draws, takes_part, state.clients.user, from_storage(server.items), hyper)
        return State(Clients(user), server), Info(loss, takes_part * config.server_steps)

    def visit(visited, carry, draws, takes_part, client_at, members, table, hyper: Hyper):
        """Fold `visited(carry, places, block of Solved)` over this device's participants."""
        gram = table.T @ table

        def block(size: SizeClass, places, carry):
            client = client_at.at[places].get(mode="fill", fill_value=layout.nobody)
            own = jax.vmap(lambda each: client_samples(draws, each, size, num_items, rule).rows)
            own = jnp.where((places < layout.shard)[:, None], own(client), num_items)
            return visited(carry, places, jax.vmap(partial(solved, table, gram, hyper))(own))

        blocks = layout._replace(block=side_by_side(config, layout.block))
        return for_each_block(block, carry, takes_part, layout.classes, members, blocks)

    def gathered(
        draws: Draws, takes_part: Bool[Array, " C"], arrives: Bool[Array, " C"],
        table: Float[Array, "I D"], hyper: Hyper,
    ) -> tuple[Float[Array, " C"], Upload]:  # fmt: skip
        """The loss of each participant by this table, and the sum of what arrives."""

        def on_device(masks, table, client_at, members):
            takes_part, arrives = masks

            def send(carry, places, client: Solved):
                loss, products, rows = carry
                loss = loss.at[places].set(client.loss, mode="drop")
                if num_arrived < num_participants:
                    heard = arrives.at[places].get(mode="fill", fill_value=False)
                    client = client._replace(user=jnp.where(heard[:, None], client.user, 0))
                own = jax.vmap(pull, (0, None))(client, hyper.confidence)
                return (
                    loss,
                    products + client.user.T @ client.user,
                    rows.at[client.items].add(own, mode="drop"),
                )

            start = (jnp.full(layout.shard, jnp.nan), jnp.zeros((dim, dim)), jnp.zeros_like(table))
            loss, products, rows = visit(
                send, start, draws, takes_part, client_at, members, table, hyper
            )
            products, rows = lax.psum((products, rows), AXIS)
            return loss, Upload(rows - table @ products)

        return layout.on_each_device(
            on_device, (takes_part, arrives), table, *whereabouts(layout), summed=True
        )

    def users(
        draws: Draws, takes_part: Bool[Array, " C"], user: Float[Array, "C D"],
        table: Float[Array, "I D"], hyper: Hyper,
    ) -> Float[Array, "C D"]:  # fmt: skip
        """User vectors, those of the participants for this table."""

        def on_device(clients, table, client_at, members):
            def keep(user, places, client: Solved):
                return user.at[places].set(client.user, mode="drop")

            takes_part, user = clients
            return visit(keep, user, draws, takes_part, client_at, members, table, hyper)

        return layout.on_each_device(on_device, (takes_part, user), table, *whereabouts(layout))

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return state.clients.user[places] @ from_storage(state.server.items).T

    def newcomer(state: State, new: Newcomer, hyper: Hyper) -> Float[Array, " I"]:
        """In closed form; there is nothing to sample."""
        table = from_storage(state.server.items)
        return table @ solved(table, table.T @ table, hyper, new.items).user

    def scratch(block: int) -> dict[str, int]:
        """Exchange: with the sum, gradient and update of the server."""
        return {
            "exchange": solving_scratch(config, layout, block) + 4 * num_items * dim,
            "evaluate": block * num_items * 8 + num_items * dim,
        }

    numbers = config.server_steps * num_items * dim
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(
            up=4 * num_arrived * numbers, down=stored.itemsize * num_participants * numbers
        ),
        scratch=scratch,
        newcomer=newcomer,
        item_tables=everybodys_table,
    )


def serve(server: Server, upload: Upload, hyper: Hyper) -> Server:
    """The server's step, on nothing but the upload."""
    table = from_storage(server.items)
    gradient = -2 * upload.items + 2 * hyper.regularization * table
    step, moments = adam_step(hyper, server.moments, gradient)
    return Server(to_storage(table - step, server.items.dtype), moments)


def whereabouts(layout: Layout) -> tuple[Array, list[Array]]:
    """Client at each place, and the members of each class."""
    return jnp.asarray(layout.client), [jnp.asarray(size.members) for size in layout.classes]

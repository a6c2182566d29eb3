"""Centralised matrix factorisation: what there is to learn if all data may lie in one place.

    the server:  pool the samples of all clients, drawn anew in every round
                 (P, Q) <- epochs of Adam over shuffled batches, on BCE(p_u . q_i, y_ui)
                           or on -log sigmoid(p_u . (q_i - q_j)), j a negative of the positive i

The reference that federated methods are held against, not one of them: the interactions have been
uploaded before the first round, so that no round costs traffic. There is one Adam, whose moments
last over the rounds; it moves every row in every step, those outside the batch as well. Clients
that sit out a round are not in the pool, and their vectors and moments stay as they were.

User vectors all start alike, as in FedMF. Every device does the same work, on the whole pool.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.config.settings import CentralMF
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, copies, hyper_of
from fedem_jax.core.blocks import for_each_block
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout, SizeClass
from fedem_jax.core.sampling import shuffle
from fedem_jax.core.table_storage import (
    everybodys_table,
    from_storage,
    storage_dtype,
    to_storage,
)
from fedem_jax.models.losses import BCE, logit_bce
from fedem_jax.models.mf import item_table


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of P_0 and Q_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of P and Q."""
    weight_decay: Float[Array, ""]
    """L2 penalty of both, added to their gradients."""


class Clients(NamedTuple):
    """One row for each client; the server's here, as all else."""

    user: Float[Array, "C D"]
    """P; each device holds the rows of the clients that it ranks for."""


class Server(NamedTuple):
    """What all clients share."""

    items: Num[Array, "I D"]
    """Q."""
    moments: optax.ScaleByAdamState
    """Adam's, of a `Model`."""


class Model(NamedTuple):
    """What is trained."""

    user: Float[Array, "C D"]
    items: Float[Array, "I D"]

    def unless_idle(self, before: Model, takes_part: Bool[Array, " C"]) -> Model:
        """The same, with the rows of the clients that sit out as before."""
        return self._replace(user=jnp.where(takes_part[:, None], self.user, before.user))


class Pool(NamedTuple):
    """Samples of a round, one positive after the other; places from `count` on are padding."""

    user: Int[Array, " G"]
    """Place of the client that a positive belongs to."""
    items: Int[Array, "G N"]
    """The positive, then its negatives."""
    count: Int[Array, ""]
    """Positives."""


def central_mf(config: CentralMF, layout: Layout) -> Algorithm:
    """Centralised matrix factorisation; the arguments are those of `local_only`."""
    stored, dim, num_items = storage_dtype(config), config.dim, layout.num_items
    drawn, samples = 1 + config.num_negative, jnp.asarray(layout.samples)
    room = sum(size.positives * size.members.size for size in layout.classes)
    by_pairs, loss = config.loss == "bpr", BCE[config.bce]
    each = config.num_negative if by_pairs else drawn  # samples that a positive stands for

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        key_items, key_user, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, dim, hyper.init_scale)
        user = copies(hyper.init_scale * jax.random.normal(key_user, (dim,)), layout)
        moments = optax.scale_by_adam().init(Model(user, table))
        return State(Clients(user), Server(to_storage(table, stored), moments))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = layout.places(draws.participants())
        takes_part = jnp.zeros(layout.padded, bool).at[participants].set(True)
        pool, key = pooled(draws, takes_part), draws.server()

        def on_device(user, whole):
            server, takes_part, pool = whole
            before = Model(lax.all_gather(user, AXIS, tiled=True), from_storage(server.items))
            after, moments, losses = trained(key, before, server.moments, pool, hyper)
            after = after.unless_idle(before, takes_part)
            moments = moments._replace(
                mu=moments.mu.unless_idle(server.moments.mu, takes_part),
                nu=moments.nu.unless_idle(server.moments.nu, takes_part),
            )
            first = lax.axis_index(AXIS) * layout.shard
            own = (
                lax.dynamic_slice_in_dim(leaf, first, layout.shard) for leaf in (after.user, losses)
            )
            return tuple(own), Server(to_storage(after.items, stored), moments)

        (user, losses), server = layout.on_each_device(
            on_device, state.clients.user, (state.server, takes_part, pool), summed=True
        )
        share = config.local_epochs * each / drawn
        mean = jnp.where(takes_part, losses / (share * samples), jnp.nan)
        return State(Clients(user), server), Info(mean, takes_part * config.local_epochs)

    def pooled(draws: Draws, takes_part: Bool[Array, " C"]) -> Pool:
        """The samples of the participants, in order of the clients."""
        counts = jnp.where(takes_part, samples // drawn, 0)[layout.place]
        starts = jnp.zeros(layout.padded, jnp.int32)
        starts = starts.at[layout.place].set(jnp.cumsum(counts) - counts)

        def on_device(mine, _, members):
            takes_part, starts, place, client_at = mine

            def block(size: SizeClass, places, pool):
                def one(at):
                    client = client_at.at[at].get(mode="fill", fill_value=layout.nobody)
                    items, _, count, _ = draws.samples(client, size.positives, size.barred)
                    index = jnp.arange(size.positives, dtype=jnp.int32)
                    there = (index * drawn < count) & (at < layout.shard)
                    to = jnp.where(there, starts[at] + index, room)
                    return to, jnp.full(size.positives, place[at]), items.reshape(-1, drawn)

                to, user, items = jax.vmap(one)(places)
                return (
                    pool[0].at[to].set(user, mode="drop"),
                    pool[1].at[to].set(items, mode="drop"),
                )

            empty = (jnp.zeros(room, jnp.int32), jnp.zeros((room, drawn), jnp.int32))
            found = for_each_block(block, empty, takes_part, layout.classes, members, layout)
            return (), lax.psum(found, AXIS)

        place = jnp.arange(layout.padded, dtype=jnp.int32)
        mine = (takes_part, starts, place, jnp.asarray(layout.client))
        members = [jnp.asarray(size.members) for size in layout.classes]
        _, (user, items) = layout.on_each_device(on_device, mine, (), members, summed=True)
        return Pool(user, items, counts.sum())

    def trained(
        key: Key[Array, ""], model: Model, moments: optax.ScaleByAdamState, pool: Pool, hyper: Hyper
    ) -> tuple[Model, optax.ScaleByAdamState, Float[Array, " C"]]:
        """The model after all epochs, Adam's moments, and the summed losses of each client."""
        adam, count = optax.scale_by_adam(), pool.count * each
        width = min(config.batch_size, room * each)
        num_batches = -(-count // width)

        def step(number, carry):
            model, moments, losses = carry
            epoch, batch = jnp.divmod(number, num_batches)
            position = batch * width + jnp.arange(width, dtype=jnp.int32)
            present = position < count
            visited = shuffle(jax.random.fold_in(key, epoch), count)
            index = visited(jnp.where(present, position, 0))
            positive, column = jnp.divmod(index, each)
            user = pool.user[positive]

            def objective(model: Model):
                if by_pairs:
                    liked = model.items[pool.items[positive, 0]]
                    rows = liked - model.items[pool.items[positive, 1 + column]]
                    lost = logit_bce(jnp.sum(model.user[user] * rows, axis=1), jnp.ones(width))
                else:
                    rows = model.items[pool.items[positive, column]]
                    logits = jnp.sum(model.user[user] * rows, axis=1)
                    lost = loss(logits, (column == 0).astype(jnp.float32))
                lost = jnp.where(present, lost, 0.0)
                return lost.sum() / present.sum(), lost

            gradient, lost = jax.grad(objective, has_aux=True)(model)
            gradient = jax.tree.map(
                lambda slope, x: slope + hyper.weight_decay * x, gradient, model
            )
            move, moments = adam.update(gradient, moments)
            model = jax.tree.map(lambda x, by: x - hyper.lr_embedding * by, model, move)
            return model, moments, losses.at[user].add(lost)

        start = (model, moments, jnp.zeros(layout.padded))
        return lax.fori_loop(0, config.local_epochs * num_batches, step, start)

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return state.clients.user[places] @ from_storage(state.server.items).T

    def scratch(block: int) -> dict[str, int]:
        """Pool: two of them, where devices add up what they found. Train: model, moments before
        and after, gradient and update; rows of a batch and their gradients."""
        most = max(size.positives for size in layout.classes)
        pool, model = room * (1 + drawn), (layout.padded + num_items) * dim
        return {
            "pool": 2 * pool + 2 * block * most * (1 + drawn),
            "train": pool + 5 * model + min(config.batch_size, room * each) * (4 * dim + 16),
            "evaluate": block * num_items * 8 + num_items * dim,
        }

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(up=0, down=0),
        scratch=scratch,
        item_tables=everybodys_table,
        placed=lambda server: (server.moments.mu.user, server.moments.nu.user),
    )

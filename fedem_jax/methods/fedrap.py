"""FedRAP (Li, Long, Zhou, ICLR 2024): federated recommendation with additive personalisation; after
the released program.

    clients, in parallel:  C_u <- C
                           (w_u, b_u, D_u, C_u) <- local epochs of gradient steps on
                               BCE(w_u . (D_u + C_u)_i + b_u, y_ui)
                               - lambda mean (D_u - C_u)_i^2 + mu mean |C_u,i|
                           upload C_u
    server:                C <- mean of C_u

All means are over the samples of a batch. Weight decay shrinks every row at every step. So a row
outside the samples is what it was times a number, the same for the whole table. The sum is that of
the rows that were sampled, and of those numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.local import Objective, batch_weights, loss_of_table, run_epochs
from fedem_jax.config.settings import FedRAP
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, copies, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Contribution,
    Phase,
    RoundContext,
    Sum,
    Trained,
    train_clients,
    training_scratch,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import Scoring, scoring
from fedem_jax.server import averaging


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of D_0 and C_0."""
    lr_network: Float[Array, ""]
    """Gradient step of w_u and b_u, in the first batch of the first round."""
    lr_embedding: Float[Array, ""]
    """Gradient step of D_u and C_u, then."""
    independence: Float[Array, ""]
    """Reward for the distance between D_u and C_u, lambda of the paper."""
    sparsity: Float[Array, ""]
    """Penalty of C_u, mu of the paper."""
    weight_decay: Float[Array, ""]
    """L2 penalty of everything."""
    decay_per_batch: Float[Array, ""]
    """Factor of both steps after a batch."""
    decay_per_round: Float[Array, ""]
    """Factor of both steps after a round."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] score functions w_u, b_u; they never leave a client."""
    items: Num[Array, "C I D"]
    """D_u, the personal tables; they never leave a client."""


class Server(NamedTuple):
    """What the server keeps."""

    items: Num[Array, "I D"]
    """C, the common table, which all download."""
    number: Int[Array, ""]
    """Rounds so far."""


class Weights(NamedTuple):
    """What holds for all clients in a round."""

    rate: Float[Array, ""]
    """Factor of the step sizes in the first batch."""
    independence: Float[Array, ""]
    sparsity: Float[Array, ""]


class Fitted(NamedTuple):
    """A client after its local training."""

    private: Any
    own: Float[Array, "M D"]
    """Rows of D_u."""
    common: Float[Array, "M D"]
    """Rows of C_u."""
    shrink: Float[Array, ""]
    """Factor of all other rows of both."""
    trained: Trained


NORMS = {"l1": jnp.abs, "l2": jnp.square}
"""What the entries of C_u are penalised by."""


def fedrap(config: FedRAP, layout: Layout) -> Algorithm:
    """FedRAP on one federation; the arguments are those of `local_only`."""
    model, stored = scoring(Linear(), config.bce, config.loss), storage_dtype(config)
    num_participants, num_arrived = config.round_sizes(layout.num_clients)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same w_0, b_0 and D_0."""
        key_items, key_private, key_common = jax.random.split(key, 3)
        own, common = (
            item_table(each, layout.num_items, config.dim, hyper.init_scale)
            for each in (key_items, key_common)
        )
        private = Linear().init(key_private, own)["params"]
        clients = Clients(*copies((private, to_storage(own, stored)), layout))
        return State(clients, Server(to_storage(common, stored), jnp.int32(0)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold, offset=0.0)
        weights = weights_of(config, state.server.number, hyper)
        train = partial(train_and_upload, config, model, hyper, num_arrived, weights)
        phases = [Phase(train)]
        nothing = averaging.nothing_sent(state.server.items, jnp.float32(0))
        clients, info, upload = train_clients(context, phases, state, nothing)
        return State(clients, average(state.server, upload)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by each client's own table and the new common one."""
        private = at_place(state.clients.private, places)
        return jax.vmap(model.logits)(private, item_tables(state, places, hyper))

    table = table_bytes(config, layout.num_items)
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(up=num_arrived * table, down=num_participants * table),
        scratch=partial(scratch, config, layout),
        item_tables=item_tables,
    )


def item_tables(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I D"]:
    """D_u + C, with the new common table."""
    return from_storage(state.clients.items[places]) + from_storage(state.server.items)[None]


def train_and_upload(
    config: FedRAP,
    model: Scoring,
    hyper: Hyper,
    num_arrived: int,
    weights: Weights,
    samples: ClientSamples,
    clients: Clients,
    server: Server,
    place,
) -> Change:
    """(w_u, b_u, D_u, C_u) <- local epochs from (w_u, b_u, D_u, C). The upload gets (C_u - C) / A,
    where A uploads arrive, and the factor by which all other rows shrank."""
    private, own = at_place(clients, place)
    own, rows = from_storage(own), samples.rows
    start = from_storage(server.items[rows])
    norm = NORMS[config.sparsity_norm]
    fitted = fit(model.objective, norm, private, own[rows], start, samples, weights, hyper)
    own = (fitted.shrink * own).at[rows].set(fitted.own, mode="drop")
    moved = fitted.common - fitted.shrink * start
    sent = Contribution(rows, moved / num_arrived, (fitted.shrink - 1) / num_arrived)
    kept = {"private": fitted.private, "items": to_storage(own, clients.items.dtype)}
    return Change(kept, fitted.trained, sent=sent)


def weights_of(config: FedRAP, number: Int[Array, ""], hyper: Hyper) -> Weights:
    """Those of round `number`, from 0. The released program computes tanh, but never reads it."""
    rate, rise = hyper.decay_per_round**number, jnp.float32(1)
    if config.schedule == "tanh":
        rise = jnp.tanh(number / 10)
    return Weights(rate, rise * hyper.independence, rise * hyper.sparsity)


def fit(
    objective: Objective,
    norm: Callable[[Array], Array],
    private: Any,
    own: Float[Array, "M D"],
    common: Float[Array, "M D"],
    samples: ClientSamples,
    weights: Weights,
    hyper: Hyper,
) -> Fitted:
    """Local epochs of gradient steps on everything at once, with weight decay, at rates that fall
    after every batch. Tables are held as [D, M], as in `client.local.fit_embedding`.

    Args:
        objective: loss of rows.
        norm: penalty of an entry of C_u.
        private, own, common: the client's score function and its rows of D_u and C_u.
        samples: of the client.
        weights, hyper: those of the round.
    """
    lr = (hyper.lr_network, hyper.lr_embedding, hyper.lr_embedding)

    def step(carry, row, present):
        params, rate, shrink = carry
        share = batch_weights(row, present, len(samples.rows))

        def batch_loss(params):
            private, own, common = params
            apart, size = jnp.mean((own - common) ** 2, axis=0), jnp.mean(norm(common), axis=0)
            table = (own + common).T
            loss = loss_of_table(objective, private, table, samples, row, present)
            return loss + share @ (weights.sparsity * size - weights.independence * apart)

        def moved(part, slope, lr):
            def move(x, slope):
                return x - rate * lr * (slope + hyper.weight_decay * x)

            return jax.tree.map(move, part, slope)

        loss, slopes = jax.value_and_grad(batch_loss)(params)
        params = tuple(moved(*each) for each in zip(params, slopes, lr, strict=True))
        shrink = shrink * (1 - rate * hyper.lr_embedding * hyper.weight_decay)
        return (params, rate * hyper.decay_per_batch, shrink), loss

    start = ((private, own.T, common.T), weights.rate, jnp.float32(1))
    ((private, own, common), _, shrink), trained = run_epochs(step, start, samples)
    return Fitted(private, own.T, common.T, shrink, trained)


def average(server: Server, upload: Sum) -> Server:
    """The server's step: C <- mean of C_u. `1 + upload.rest` is the mean factor of the rows that
    clients left alone."""
    table = (1 + upload.rest) * from_storage(server.items) + upload.items
    return Server(to_storage(table, server.items.dtype), server.number + 1)


def scratch(config: FedRAP, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once.

    train: rows of both tables and their gradients, in place of the moments of Adam; D_u before and
    after, [I D]; the sum of what moved.
    """
    numbers = training_scratch(layout, config.dim, block, tables=2, pairs=config.pairs)
    rows = max(size.rows for size in layout.classes)
    numbers["train"] += config.dim * (block * (2 * layout.num_items - rows) + layout.num_items)
    return numbers

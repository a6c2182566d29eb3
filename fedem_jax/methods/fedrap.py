"""FedRAP (Li, Long, Zhou, ICLR 2024): federated recommendation with additive personalisation; after
the released program.

    clients, in parallel:  C_u <- C
                           (w_u, b_u, D_u, C_u) <- local epochs of gradient steps on
                               BCE(w_u . (D_u + C_u)_i + b_u, y_ui)
                               - lambda mean (D_u - C_u)_i^2 + mu mean |C_u,i|
                           upload C_u
    server:                C <- mean of C_u

All means are over the samples of a batch. Weight decay shrinks every row at every step, so a row
outside the samples is what it was times a number, the same for the whole table: the sum is that of
the rows that were sampled, and of those numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.local import batch_weights, run_epochs
from fedem_jax.config.settings import FedRAP
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Contribution,
    Phase,
    Sum,
    Trained,
    everybody,
    train_clients,
    training_scratch,
)
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server.averaging import copies


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

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


def fedrap(config: FedRAP, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedRAP on one federation; the arguments are those of `fedem`."""
    logits, objective = scoring(Linear(), config.bce)
    stored, norm = storage_dtype(config), NORMS[config.sparsity_norm]
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same w_0, b_0 and D_0."""
        key_items, key_private, key_common = jax.random.split(key, 3)
        own, common = (
            item_table(each, num_items, config.dim, config.init_scale)
            for each in (key_items, key_common)
        )
        private = Linear().init(key_private, own)["params"]
        clients = Clients(*copies((private, to_storage(own, stored)), layout))
        return State(clients, Server(to_storage(common, stored), jnp.int32(0)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        weights = weights_of(config, state.server.number, hyper)

        def train(session, clients: Clients, server: Server, id) -> Change:
            private, own = tree_at(clients, id)
            own, rows = from_storage(own), session.rows
            start = from_storage(server.items[rows])
            fitted = fit(objective, norm, private, own[rows], start, session, weights, hyper)
            own = (fitted.shrink * own).at[rows].set(fitted.own, mode="drop")
            moved = fitted.common - fitted.shrink * start
            sent = Contribution(
                rows, moved / num_participants, (fitted.shrink - 1) / num_participants
            )
            kept = {"private": fitted.private, "items": to_storage(own, stored)}
            return Change(kept, fitted.trained, sent=sent)

        rule = Rule.of(config, hyper.threshold, offset=0.0)
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), jnp.float32(0))
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, draws.participants(), nothing
        )
        return State(clients, serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by each client's own table and the new common one."""
        private, own = tree_at(state.clients, ids)
        return jax.vmap(lambda mine, own: logits(mine, own + from_storage(state.server.items)))(
            private, from_storage(own)
        )

    def scratch(block: int) -> dict[str, int]:
        """Training: rows of both tables and their gradients, in place of the moments of Adam; D_u
        before and after, [I D]; the sum of what moved."""
        numbers = training_scratch(layout, num_items, config.dim, block, tables=2)
        rows = max(size.rows for size in layout.classes)
        numbers["train"] += config.dim * (block * (2 * num_items - rows) + num_items)
        return numbers

    hyper = numbers_of(Hyper, config)
    table = num_participants * stored.itemsize * num_items * config.dim
    return Algorithm(init, round, score, num_items, hyper, Traffic(up=table, down=table), scratch)


def weights_of(config: FedRAP, number: Int[Array, ""], hyper: Hyper) -> Weights:
    """Those of round `number`, from 0. The released program computes tanh, but never reads it."""
    rate, rise = hyper.decay_per_round**number, jnp.float32(1)
    if config.schedule == "tanh":
        rise = jnp.tanh(number / 10)
    return Weights(rate, rise * hyper.independence, rise * hyper.sparsity)


def fit(
    objective, norm, private, own: Float[Array, "M D"], common: Float[Array, "M D"],
    session: ClientSamples, weights: Weights, hyper: Hyper,
) -> Fitted:  # fmt: skip
    """Local epochs of gradient steps on everything at once, with weight decay, at rates that fall
    after every batch. Tables are held as [D M], as in `local.fit_embedding`."""
    lr = (hyper.lr_network, hyper.lr_embedding, hyper.lr_embedding)

    def step(carry, row, present):
        params, rate, shrink = carry
        share = batch_weights(row, present, len(session.rows))

        def batch_loss(params):
            private, own, common = params
            apart, size = jnp.mean((own - common) ** 2, axis=0), jnp.mean(norm(common), axis=0)
            loss = objective(private, (own + common).T, session.labels, share)
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
    ((private, own, common), _, shrink), trained = run_epochs(step, start, session)
    return Fitted(private, own.T, common.T, shrink, trained)


def serve(server: Server, upload: Sum) -> Server:
    """The server's step: C <- mean of C_u. `1 + upload.rest` is the mean factor of the rows that
    clients left alone."""
    table = (1 + upload.rest) * from_storage(server.items) + upload.items
    return Server(to_storage(table, server.items.dtype), server.number + 1)

"""FedMF: federated matrix factorisation, also called FCF or FedAvg of matrix factorisation (Chai et
al. 2019, without encryption; the released program of FedCA with interpolation = 0).

    clients, in parallel:  Q_u <- G
                           (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           upload Q_u
    server:                G <- sum_u a_u Q_u,  a_u = n_u / sum n or 1 / P

Nobody keeps a whole table: the sum is that of the rows that moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.averaging import Download, copies, scores, serve
from fedem_jax.base import Algorithm, Info, State, Traffic
from fedem_jax.clients import Layout
from fedem_jax.draws import Draws
from fedem_jax.local import Rule, exact, fit_embedding, tree_at
from fedem_jax.models.fcf import FCF, item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.own_rows import OwnRows
from fedem_jax.settings import FedMF
from fedem_jax.training import (
    Change,
    Contribution,
    Phase,
    Sum,
    everybody,
    train_clients,
    training_scratch,
)


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""


class Clients(NamedTuple):
    """What the clients keep."""

    private: Any
    """[C ...] user vectors p_u; they never leave a client."""
    items: OwnRows | None
    """The rows that each client moved in its last round, if clients rank with them."""


def fedmf(config: FedMF, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedMF on one federation; the arguments are those of `fedem`."""
    backbone = FCF(config.dim, config.init_scale)
    logits, objective = scoring(backbone, config.bce)
    stored, most_rows = jnp.dtype(config.table_dtype), max(size.rows for size in layout.classes)
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        key_items, key_private, _ = jax.random.split(key, 3)  # the same start as FedEM's
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        own = None
        if config.evaluated == "local":
            own = OwnRows.empty(layout, num_items, config.dim, stored)
        table = table.astype(stored)
        return State(Clients(copies(private, layout), own), Download(table, table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        total = samples[layout.places(participants)].sum()

        def train(session, clients: Clients, download: Download, id) -> Change:
            private, rows = tree_at(clients.private, id), session.rows
            start = exact(download.items[rows])
            optimiser = optax.adam(hyper.lr_embedding)
            private, table, trained = fit_embedding(objective, private, start, session, optimiser)
            share = session.count / total if config.weighting == "samples" else 1 / num_participants
            sent = Contribution(rows, share * (table - start), ())
            if config.evaluated == "global":
                return Change({"private": private}, trained, sent=sent)
            return Change({"private": private}, trained, rows, table, sent)

        rule = Rule(config.batch_size, config.local_epochs, hyper.threshold)
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), ())
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, participants, nothing
        )
        return State(clients, serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, own = state.clients
        return scores(logits, private, own, state.server, ids, most_rows)

    def scratch(block: int) -> dict[str, int]:
        numbers = training_scratch(layout, num_items, config.dim, block)
        numbers["train"] += num_items * config.dim
        return {phase: 4 * count for phase, count in numbers.items()}

    hyper = Hyper(jnp.float32(config.lr_embedding), jnp.float32(config.threshold))
    table = num_participants * stored.itemsize * num_items * config.dim
    traffic = Traffic(up=table + 4 * num_participants, down=table)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)

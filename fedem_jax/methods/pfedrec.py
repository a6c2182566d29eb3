"""PFedRec (Zhang, Long, Zhou, Yan, Zhang, Yang, IJCAI 2023): dual personalisation for federated
recommendation; after the released program.

    clients, in parallel:  Q_u <- G
                           batch by batch: (w_u, c_u) <- a gradient step on BCE(w_u . q_i + c_u, y)
                                           Q_u <- a gradient step with the new (w_u, c_u)
                           upload Q_u
    server:                G <- mean of Q_u

Nobody keeps a whole table: the sum is that of the rows that moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fedem_jax.averaging import Download, copies, scores, serve
from fedem_jax.base import Algorithm, Info, State, Traffic
from fedem_jax.clients import Layout
from fedem_jax.draws import Draws
from fedem_jax.local import Rule, exact, fit_in_turn, tree_at
from fedem_jax.models.fcf import item_table
from fedem_jax.models.score import Score
from fedem_jax.models.scoring import scoring
from fedem_jax.own_rows import OwnRows
from fedem_jax.settings import PFedRec
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

    lr_network: Float[Array, ""]
    """Gradient step of w_u and c_u."""
    lr_item_factor: Float[Array, ""]
    """Gradient step of Q_u, as a multiple of lr_network times the number of items."""


class Clients(NamedTuple):
    """What the clients keep."""

    private: Any
    """[C ...] score functions w_u, c_u; they never leave a client."""
    items: OwnRows | None
    """The rows that each client moved in its last round, if clients rank with them."""


def pfedrec(
    config: PFedRec, num_items: int, layout: Layout, samples: Int[Array, " C"]
) -> Algorithm:
    """PFedRec on one federation; the arguments are those of `fedem`."""
    backbone = Score()
    logits, objective = scoring(backbone, config.bce)
    stored, most_rows = jnp.dtype(config.table_dtype), max(size.rows for size in layout.classes)
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0, w_0 and c_0."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        own = None
        if config.evaluated == "local":
            own = OwnRows.empty(layout, num_items, config.dim, stored)
        table = table.astype(stored)
        return State(Clients(copies(private, layout), own), Download(table, table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        lr_items = hyper.lr_network * num_items * hyper.lr_item_factor

        def train(session, clients: Clients, download: Download, id) -> Change:
            private, rows = tree_at(clients.private, id), session.rows
            start = exact(download.items[rows])
            private, table, trained = fit_in_turn(
                objective, private, start, session, hyper.lr_network, lr_items
            )
            sent = Contribution(rows, (table - start) / num_participants, ())
            if config.evaluated == "global":
                return Change({"private": private}, trained, sent=sent)
            return Change({"private": private}, trained, rows, table, sent)

        rule = Rule(config.batch_size, config.local_epochs, jnp.float32(0))
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), ())
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, draws.participants(), nothing
        )
        return State(clients, serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, own = state.clients
        return scores(logits, private, own, state.server, ids, most_rows)

    def scratch(block: int) -> dict[str, int]:
        numbers = training_scratch(layout, num_items, config.dim, block)
        numbers["train"] += num_items * config.dim
        return {phase: 4 * count for phase, count in numbers.items()}

    hyper = Hyper(jnp.float32(config.lr_network), jnp.float32(config.lr_item_factor))
    table = num_participants * stored.itemsize * num_items * config.dim
    return Algorithm(init, round, score, num_items, hyper, Traffic(up=table, down=table), scratch)

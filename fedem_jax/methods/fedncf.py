"""FedNCF: federated neural collaborative filtering (Perifanis, Efraimidis 2022, without secure
aggregation; the training is that of the program of FedCA).

    clients, in parallel:  (Q_u, W_u) <- (G, W)
                           (p_u, Q_u, W_u) <- local epochs of Adam on BCE(f(p_u, q_i; W_u), y_ui),
                           with an L2 penalty of W_u
                           upload (Q_u, W_u)
    server:                (G, W) <- sum_u a_u (Q_u, W_u),  a_u = n_u / sum n or 1 / P

Nobody keeps a whole table: the sum is that of the rows that moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fedem_jax import averaging
from fedem_jax.averaging import copies, scores
from fedem_jax.base import Algorithm, Info, State, Traffic
from fedem_jax.clients import Layout
from fedem_jax.draws import Draws
from fedem_jax.local import Rule, exact, fit_network
from fedem_jax.models.fcf import item_table
from fedem_jax.models.ncf import NCF, adam, held
from fedem_jax.models.scoring import scoring
from fedem_jax.own_rows import OwnRows
from fedem_jax.settings import FedNCF
from fedem_jax.training import (
    Change,
    Contribution,
    Phase,
    Sum,
    everybody,
    train_clients,
    training_scratch,
)  # fmt: skip


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    lr_network: Float[Array, ""]
    """Adam step of W_u."""
    weight_decay: Float[Array, ""]
    """L2 penalty of W_u: its gradient is weight_decay W_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""

    @classmethod
    def of(cls, config: FedNCF) -> Hyper:
        """The numbers of a configuration."""
        return cls(*(jnp.float32(getattr(config, name)) for name in cls._fields))


class Clients(NamedTuple):
    """What the clients keep."""

    private: dict[str, Any]
    """[C ...] user vectors p_u, which never leave a client; beside them, if clients rank with their
    own model, the networks W_u as they left them."""
    items: OwnRows | None
    """The rows that each client moved in its last round, if clients rank with them."""


class Download(NamedTuple):
    """What the server hands out, the same for all."""

    table: averaging.Download
    """G, and what it was before."""
    network: Any
    """W."""


def fedncf(config: FedNCF, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedNCF on one federation; the arguments are those of `fedem`."""
    backbone = NCF(config.dim, config.network_widths, config.init_scale, config.variant)
    logits, objective = scoring(backbone, config.bce)
    stored, most_rows = jnp.dtype(config.table_dtype), max(size.rows for size in layout.classes)
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same G, W and p_0."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale).astype(stored)
        private, own = backbone.init(key_private, exact(table))["params"], None
        download = Download(averaging.Download(table, table), private["network"])
        if config.evaluated == "local":
            own = OwnRows.empty(layout, num_items, config.dim, stored)
        else:
            private = {"user": private["user"]}
        return State(Clients(copies(private, layout), own), download)

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants, network = draws.participants(), state.server.network
        total = samples[layout.places(participants)].sum()
        optimiser = adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)

        def train(session, clients: Clients, download: Download, id) -> Change:
            rows, start = session.rows, exact(download.table.items[session.rows])
            private = {"user": clients.private["user"][id], "network": download.network}
            private, table, trained = fit_network(objective, private, start, session, optimiser)
            share = session.count / total if config.weighting == "samples" else 1 / num_participants
            moved = jax.tree.map(jnp.subtract, private["network"], download.network)
            moved = jax.tree.map(lambda weights: share * weights, moved)
            sent = Contribution(rows, share * (table - start), moved)
            kept = {"private": {name: private[name] for name in clients.private}}
            if config.evaluated == "global":
                return Change(kept, trained, sent=sent)
            return Change(kept, trained, rows, table, sent)

        rule = Rule(config.batch_size, config.local_epochs, hyper.threshold)
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), jax.tree.map(jnp.zeros_like, network))
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, participants, nothing
        )
        return State(clients, serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by the network that the client keeps or else by the new average."""
        clients, download = state

        def by_network(private, rows):
            return logits({"network": download.network} | private, rows)

        private, own = clients
        return scores(by_network, private, own, download.table, ids, most_rows)

    def scratch(block: int) -> dict[str, int]:
        """Beside the tables: the sum of what moved, [I D]; weights, both moments, gradient and
        update of the network; its input and widest layer for all items."""
        numbers = training_scratch(layout, num_items, config.dim, block)
        numbers["train"] += num_items * config.dim + 5 * block * weights
        numbers["evaluate"] += block * num_items * held(config.dim, config.network_widths)
        return {phase: 4 * count for phase, count in numbers.items()}

    start = jax.eval_shape(init, jax.random.key(0))
    weights = sum(leaf.size for leaf in jax.tree.leaves(start.server.network))
    model = stored.itemsize * num_items * config.dim + 4 * weights
    traffic = Traffic(up=num_participants * (model + 4), down=num_participants * model)
    return Algorithm(init, round, score, num_items, Hyper.of(config), traffic, scratch)


def serve(download: Download, upload: Sum) -> Download:
    """The server's step; the weights of the clients sum to 1."""
    network = jax.tree.map(jnp.add, download.network, upload.rest)
    return Download(averaging.serve(download.table, upload), network)

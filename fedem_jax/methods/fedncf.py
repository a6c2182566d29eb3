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

from fedem_jax.client.local import fit_network
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.config.settings import FedNCF
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, Phase, Sum, everybody, train_clients
from fedem_jax.core.samples import Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype
from fedem_jax.models.mf import item_table
from fedem_jax.models.ncf import NCF, adam, inside
from fedem_jax.models.scoring import scoring
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Clients


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
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of (Q_u, W_u) - (G, W), where the configuration has a bound."""


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
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same G, W and p_0. Clients keep p_u and, if they rank with
        their own model, W_u as they left it."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        network = private["network"]
        if config.evaluated == "global":
            private = {"user": private["user"]}
        clients, download = averaging.start(config, layout, private, table)
        return State(clients, Download(download, network))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants, network = draws.participants(), state.server.network
        counts = samples[layout.places(participants)]
        total = counts.sum()
        optimiser = adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)

        def train(session, clients: Clients, download: Download, id) -> Change:
            rows, start = session.rows, from_storage(download.table.items[session.rows])
            private = {"user": clients.private["user"][id], "network": download.network}
            private, table, trained = fit_network(objective, private, start, session, optimiser)
            share = averaging.share_of(config, session.count, total, num_participants)
            moved = jax.tree.map(jnp.subtract, private["network"], download.network)
            moved = clipped(config, (table - start, moved), hyper.ldp_clip)
            sent = Contribution(rows, *jax.tree.map(lambda leaf: share * leaf, moved))
            kept = {name: private[name] for name in clients.private}
            return averaging.change(config, kept, trained, sent, table)

        rule = Rule.of(config, hyper.threshold)
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), jax.tree.map(jnp.zeros_like, network))
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, participants, nothing
        )
        shares = averaging.share_of(config, counts, total, num_participants)
        upload = noisy_sum(config, draws, participants, shares, upload, layout, hyper)
        return State(clients, serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by the network that the client keeps or else by the new average."""
        clients, download = state

        def by_network(private, rows):
            return logits({"network": download.network} | private, rows)

        return averaging.scores(by_network, clients, download.table, ids, layout)

    def scratch(block: int) -> dict[str, int]:
        """Beside the tables: weights, both moments, gradient and update of the network; its input
        and widest layer for all items."""
        numbers = averaging.scratch(config, layout, num_items, block)
        numbers["train"] += 5 * block * weights
        numbers["evaluate"] += block * num_items * inside(config.dim, config.network_widths)
        return numbers

    start = jax.eval_shape(init, jax.random.key(0))
    weights = sum(leaf.size for leaf in jax.tree.leaves(start.server.network))
    model = storage_dtype(config).itemsize * num_items * config.dim + 4 * weights
    traffic = Traffic(up=num_participants * (model + 4), down=num_participants * model)
    hyper = numbers_of(Hyper, config)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)


def serve(download: Download, upload: Sum) -> Download:
    """The server's step; the weights of the clients sum to 1."""
    network = jax.tree.map(jnp.add, download.network, upload.rest)
    return Download(averaging.serve(download.table, upload), network)

"""FedNCF: federated neural collaborative filtering (Perifanis, Efraimidis 2022, with secure
aggregation if asked for; the training is that of the program of FedCA).

    clients, in parallel:  (Q_u, W_u) <- (G, W)
                           (p_u, Q_u, W_u) <- local epochs of Adam on BCE(f(p_u, q_i; W_u), y_ui),
                           with an L2 penalty of W_u
                           upload (Q_u, W_u)
    server:                (G, W) <- sum_u a_u (Q_u, W_u),  a_u = n_u / sum n or 1 / P,
                                     or a step of Adam along the way there

The simulation holds no table for each client. It sums the rows that moved.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.client import replacing
from fedem_jax.client.local import fit_network
from fedem_jax.client.masking import for_masks, masked_sum
from fedem_jax.client.newcomer import trained_alone
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.client.replacing import Clients
from fedem_jax.config.settings import FedNCF
from fedem_jax.core.algorithm import Algorithm, Info, Newcomer, State, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Contribution,
    Phase,
    RoundContext,
    Sum,
    train_clients,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype
from fedem_jax.models.ncf import NCF, adam, inside
from fedem_jax.models.scoring import Scoring, initial, scoring, trained_by
from fedem_jax.server import averaging
from fedem_jax.server.averaging import ShareOf


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    lr_network: Float[Array, ""]
    """Adam step of W_u."""
    weight_decay: Float[Array, ""]
    """L2 penalty of W_u: its gradient is weight_decay W_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    lr_server: Float[Array, ""]
    """Adam step of (G, W), where the server has Adam."""
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    """Decay of the first and second moments of that."""
    server_decay: Float[Array, ""]
    """L2 penalty of G in that step."""
    ldp_scale: Float[Array, ""]
    """Scale of the noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most norm of (Q_u, W_u) - (G, W), where the configuration has a bound."""


class Download(NamedTuple):
    """What the server hands out, the same for all."""

    table: averaging.Download
    """G, and what it was before."""
    network: Any
    """W."""


def fedncf(config: FedNCF, layout: Layout) -> Algorithm:
    """FedNCF on one federation; the arguments are those of `local_only`."""
    backbone = NCF(config.dim, config.network_widths, variant=config.variant)
    model = scoring(backbone, config.bce, config.loss)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same G, W and p_0. Clients keep p_u and, if they rank with
        their own model, W_u as they left it."""
        private, table = initial(backbone, key, layout.num_items, config.dim, hyper.init_scale)
        network = private["network"]
        if config.evaluated == "global":
            private = {"user": private["user"]}
        clients = replacing.start(config, layout, private)
        moments = averaging.first_moments(config, Sum(table, network))
        table = averaging.Download.of(table, storage_dtype(config), moments)
        return State(clients, Download(table, network))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        share_of = averaging.share_of(config, context)
        train = partial(train_and_upload, config, model, hyper, share_of)
        phases = [Phase(train)]
        nothing = averaging.nothing_sent(state.server.table.items, state.server.network)
        nothing = for_masks(config, nothing)
        clients, info, upload = train_clients(context, phases, state, nothing)
        upload = averaging.unmasked(config, masked_sum(config, context, upload))
        shares = share_of(context.samples_of(context.arrived))
        upload = noisy_sum(config, context, shares, upload, hyper)
        return State(clients, average(config, hyper, state.server, upload)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by the network that the client keeps or else by the new average."""
        clients, download = state

        def by_network(private, rows):
            return model.logits({"network": download.network} | private, rows)

        return replacing.scores(by_network, clients, download.table, places, layout)

    def newcomer(state: State, new: Newcomer, hyper: Hyper) -> Float[Array, " I"]:
        """By the network W of the server, which stays as it is."""
        private, _ = initial(backbone, new.key, layout.num_items, config.dim, hyper.init_scale)
        table, network = from_storage(state.server.table.items), state.server.network

        def logits(user, rows):
            return model.logits({"user": user, "network": network}, rows)

        with_network = trained_by(logits, config.bce, config.loss)
        adam = optax.adam(hyper.lr_embedding)
        user = trained_alone(with_network.objective, private["user"], table, adam, new)
        return logits(user, table)

    hyper = hyper_of(Hyper, config)
    server = jax.eval_shape(init, jax.random.key(0), hyper).server
    weights = sum(leaf.size for leaf in jax.tree.leaves(server.network))
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper,
        traffic=replacing.traffic(config, layout, up=4 * weights + 4, down=4 * weights),
        scratch=partial(scratch, config, layout, weights),
        newcomer=newcomer,
        item_tables=lambda state, at, hyper: replacing.item_tables(
            state.clients, state.server.table, at, layout
        ),
    )


def train_and_upload(
    config: FedNCF,
    model: Scoring,
    hyper: Hyper,
    share_of: ShareOf,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """(p_u, Q_u, W_u) <- local epochs of Adam from (p_u, G, W); what moved in Q_u and W_u, times
    a_u, is added to the upload."""
    start = from_storage(download.table.items[samples.rows])
    private = {"user": clients.private["user"][place], "network": download.network}
    optimiser = adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)
    private, table, trained = fit_network(model.objective, private, start, samples, optimiser)
    moved = jax.tree.map(jnp.subtract, private["network"], download.network)
    moved = clipped(config, (table - start, moved), hyper.ldp_clip)
    share = share_of(samples.count)
    moved = for_masks(config, jax.tree.map(lambda leaf: share * leaf, moved))
    sent = Contribution(samples.rows, *moved)
    kept = {name: private[name] for name in clients.private}
    return replacing.change(config, kept, trained, sent, table)


def average(config: FedNCF, hyper: Hyper, download: Download, upload: Sum) -> Download:
    """The server's step, (G, W) + sum_u a_u ((Q_u, W_u) - (G, W)), or one of Adam along that sum.
    The weights sum to 1."""
    table, moved = averaging.moved(config, hyper, download.table, upload)
    return Download(table, jax.tree.map(jnp.add, download.network, moved))


def scratch(config: FedNCF, layout: Layout, weights: int, block: int) -> dict[str, int]:
    """Beside the tables: weights, both moments, gradient and update of the network; its input and
    widest layer for all items."""
    numbers = replacing.scratch(config, layout, block)
    numbers["train"] += 5 * block * weights
    numbers["evaluate"] += block * layout.num_items * inside(config.dim, config.network_widths)
    return numbers

"""PFedRec (Zhang, Long, Zhou, Yan, Zhang, Yang, IJCAI 2023): dual personalisation for federated
recommendation; after the released program.

    clients, in parallel:  Q_u <- G
                           batch by batch: (w_u, c_u) <- a gradient step on BCE(w_u . q_i + c_u, y)
                                           Q_u <- a gradient step with the new (w_u, c_u)
                           upload Q_u
    server:                G <- mean of Q_u, or a step of Adam along the way there

The simulation holds no table for each client. It sums the rows that moved.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.client import replacing
from fedem_jax.client.local import InTurn, fit_embedding
from fedem_jax.client.masking import for_masks, masked_sum
from fedem_jax.client.newcomer import trained_alone
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.client.replacing import Clients
from fedem_jax.config.settings import PFedRec
from fedem_jax.core.algorithm import (
    Algorithm,
    Info,
    Newcomer,
    State,
    at_place,
    hyper_of,
)
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
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import Scoring, scoring
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Download


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0."""
    lr_network: Float[Array, ""]
    """Gradient step of w_u and c_u."""
    lr_item_factor: Float[Array, ""]
    """Gradient step of Q_u, as a multiple of lr_network times the number of items."""
    lr_server: Float[Array, ""]
    """Adam step of G, where the server has Adam."""
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    """Decay of the first and second moments of that."""
    server_decay: Float[Array, ""]
    """L2 penalty of G in that step."""
    ldp_scale: Float[Array, ""]
    """Scale of the noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most norm of Q_u - G, where the configuration has a bound."""


def pfedrec(config: PFedRec, layout: Layout) -> Algorithm:
    """PFedRec on one federation; the arguments are those of `local_only`."""
    backbone = Linear()
    model = scoring(backbone, config.bce, config.loss)
    _, num_arrived = config.round_sizes(layout.num_clients)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0, w_0 and c_0."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, layout.num_items, config.dim, hyper.init_scale)
        score_function = backbone.init(key_private, table)["params"]
        clients = replacing.start(config, layout, score_function)
        moments = averaging.first_moments(config, Sum(table, ()))
        return State(clients, Download.of(table, storage_dtype(config), moments))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws)
        train = partial(train_and_upload, config, model, hyper, num_arrived)
        phases = [Phase(train)]
        nothing = for_masks(config, averaging.nothing_sent(state.server.items))
        clients, info, upload = train_clients(context, phases, state, nothing)
        upload = averaging.unmasked(config, masked_sum(config, context, upload))
        shares = jnp.full(num_arrived, 1 / num_arrived)
        upload = noisy_sum(config, context, shares, upload, hyper)
        server, _ = averaging.moved(config, hyper, state.server, upload)
        return State(clients, server), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return replacing.scores(model.logits, *state, places, layout)

    def newcomer(state: State, new: Newcomer, hyper: Hyper) -> Float[Array, " I"]:
        _, key_private, _ = jax.random.split(new.key, 3)
        table = from_storage(state.server.items)
        private = backbone.init(key_private, table)["params"]
        private = trained_alone(model.objective, private, table, optax.sgd(hyper.lr_network), new)
        return model.logits(private, table)

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=replacing.traffic(config, layout),
        scratch=partial(replacing.scratch, config, layout),
        newcomer=newcomer,
        item_tables=lambda state, at, hyper: replacing.item_tables(
            state.clients, state.server, at, layout
        ),
    )


def train_and_upload(
    config: PFedRec,
    model: Scoring,
    hyper: Hyper,
    num_arrived: int,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """(w_u, c_u) and Q_u <- gradient steps in turn, from G; (Q_u - G) / A joins the upload, with
    A the number of uploads that arrive."""
    start = from_storage(download.items[samples.rows])
    num_items = download.items.shape[0]
    steps = InTurn(hyper.lr_network, hyper.lr_network * num_items * hyper.lr_item_factor)
    score_function, table, trained = fit_embedding(
        model.objective, at_place(clients.private, place), start, samples, steps
    )
    moved = clipped(config, table - start, hyper.ldp_clip)
    sent = Contribution(samples.rows, for_masks(config, moved / num_arrived), ())
    return replacing.change(config, score_function, trained, sent, table)

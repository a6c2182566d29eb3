"""FedMF: federated matrix factorisation, also called FCF or FedAvg of matrix factorisation (Chai et
al. 2019, with masks in place of encryption, if asked for; the released program of FedCA with
interpolation = 0).

    clients, in parallel:  Q_u <- G
                           (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui),
                                         or of plain gradient steps in turn
                           upload Q_u
    server:                G <- sum_u a_u Q_u,  a_u = n_u / sum n or 1 / P,
                                or a step of Adam along the way there

The simulation holds no table for each client. It sums the rows that moved.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from jaxtyping import Array, Float, Int, Key

from fedem_jax.client import replacing
from fedem_jax.client.fitting import fit_of
from fedem_jax.client.local import optimiser_of, own_optimiser
from fedem_jax.client.masking import for_masks, masked_sum
from fedem_jax.client.newcomer import trained_alone
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.client.replacing import Clients
from fedem_jax.config.settings import FedMF
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
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import Scoring, initial, scoring
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Download, ShareOf


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u, or plain step of p_u."""
    lr_item_factor: Float[Array, ""]
    """Plain step of Q_u, as a multiple of lr_embedding times the number of items."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
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


def fedmf(config: FedMF, layout: Layout) -> Algorithm:
    """FedMF on one federation; the arguments are those of `local_only`."""
    backbone = MF(config.dim)
    model = scoring(backbone, config.bce, config.loss)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same G and p_0."""
        private, table = initial(backbone, key, layout.num_items, config.dim, hyper.init_scale)
        clients = replacing.start(config, layout, private)
        moments = averaging.first_moments(config, Sum(table, ()))
        return State(clients, Download.of(table, storage_dtype(config), moments))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        share_of = averaging.share_of(config, context)
        train = partial(train_and_upload, config, model, hyper, share_of)
        phases = [Phase(train)]
        nothing = for_masks(config, averaging.nothing_sent(state.server.items))
        clients, info, upload = train_clients(context, phases, state, nothing)
        shares = share_of(context.samples_of(context.arrived))
        upload = averaging.unmasked(config, masked_sum(config, context, upload))
        upload = noisy_sum(config, context, shares, upload, hyper)
        server, _ = averaging.moved(config, hyper, state.server, upload)
        return State(clients, server), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return replacing.scores(model.logits, *state, places, layout)

    def newcomer(state: State, new: Newcomer, hyper: Hyper) -> Float[Array, " I"]:
        private, _ = initial(backbone, new.key, layout.num_items, config.dim, hyper.init_scale)
        table = from_storage(state.server.items)
        private = trained_alone(model.objective, private, table, own_optimiser(config, hyper), new)
        return model.logits(private, table)

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=replacing.traffic(config, layout, up=4),  # and the number of samples
        scratch=partial(replacing.scratch, config, layout),
        newcomer=newcomer,
        item_tables=lambda state, at, hyper: replacing.item_tables(
            state.clients, state.server, at, layout
        ),
    )


def train_and_upload(
    config: FedMF,
    model: Scoring,
    hyper: Hyper,
    share_of: ShareOf,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place: Int[Array, ""],
) -> Change:
    """(p_u, Q_u) <- local epochs from (p_u, G); a_u (Q_u - G) is added to the upload."""
    private = at_place(clients.private, place)
    start = from_storage(download.items[samples.rows])
    optimiser = optimiser_of(config, hyper, download.items.shape[0])
    fit = fit_of(config, model.objective, optimiser, hyper.lr_embedding)
    private, table, trained = fit(private, start, samples)
    moved = clipped(config, table - start, hyper.ldp_clip)
    sent = Contribution(samples.rows, for_masks(config, share_of(samples.count) * moved), ())
    return replacing.change(config, private, trained, sent, table)

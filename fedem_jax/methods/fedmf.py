"""FedMF: federated matrix factorisation, also called FCF or FedAvg of matrix factorisation (Chai et
al. 2019, without encryption; the released program of FedCA with interpolation = 0).

    clients, in parallel:  Q_u <- G
                           (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           upload Q_u
    server:                G <- sum_u a_u Q_u,  a_u = n_u / sum n or 1 / P

Nobody keeps a whole table: what is summed are the rows that moved.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.client.local import fit_embedding
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.config.settings import FedMF
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Contribution,
    Phase,
    RoundContext,
    train_clients,
)
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype
from fedem_jax.models.mf import MF, item_table
from fedem_jax.models.scoring import Scoring, scoring, start_of
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Clients, Download, Shares


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of Q_u - G, where the configuration has a bound."""


def fedmf(config: FedMF, layout: Layout) -> Algorithm:
    """FedMF on one federation; the arguments are those of `fedem`."""
    backbone = MF(config.dim)
    model = scoring(backbone, config.bce)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0 and p_0, those of FedEM."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, layout.num_items, config.dim, hyper.init_scale)
        user_vector = start_of(backbone, key_private, table, hyper.init_scale)
        return State(*averaging.start(config, layout, user_vector, table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(layout, draws, Rule.of(config, hyper.threshold))
        shares = averaging.shares_of(config, context)
        train = partial(train_and_upload, config, model, shares, hyper)
        phases = [Phase(train)]
        nothing = averaging.nothing_sent(state.server.items)
        clients, info, upload = train_clients(context, phases, state, nothing)
        weights = shares(context.samples_of(context.participants))
        upload = noisy_sum(config, context, weights, upload, hyper)
        return State(clients, averaging.average(state.server, upload)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return averaging.scores(model.logits, *state, places, layout)

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=traffic(config, layout),
        scratch=partial(averaging.scratch, config, layout),
    )


def train_and_upload(
    config: FedMF,
    model: Scoring,
    shares: Shares,
    hyper: Hyper,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """(p_u, Q_u) <- local epochs of Adam from (p_u, G); a_u (Q_u - G) is added to the upload."""
    start = from_storage(download.items[samples.rows])
    user_vector, table, trained = fit_embedding(
        model.objective,
        at_place(clients.private, place),
        start,
        samples,
        optax.adam(hyper.lr_embedding),
    )
    moved = clipped(config, table - start, hyper.ldp_clip)
    sent = Contribution(samples.rows, shares(samples.count) * moved, ())
    return averaging.change(config, user_vector, trained, sent, table)


def traffic(config: FedMF, layout: Layout) -> Traffic:
    """A table up and down for each participant, and the number of its samples up."""
    participants, _ = config.round_sizes(layout.num_clients)
    tables = participants * storage_dtype(config).itemsize * layout.num_items * config.dim
    return Traffic(up=tables + 4 * participants, down=tables)

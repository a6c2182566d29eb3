"""FedMF: federated matrix factorisation, also called FCF or FedAvg of matrix factorisation (Chai et
al. 2019, without encryption; the released program of FedCA with interpolation = 0).

    clients, in parallel:  Q_u <- G
                           (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           upload Q_u
    server:                G <- sum_u a_u Q_u,  a_u = n_u / sum n or 1 / P

Nobody keeps a whole table: the sum is that of the rows that moved.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from fedem_jax.client.local import fit_embedding
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.config.settings import FedMF
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, Phase, Sum, everybody, train_clients
from fedem_jax.core.samples import Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype
from fedem_jax.models.mf import MF, item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Clients, Download


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of Q_u - G, where the configuration has a bound."""


def fedmf(config: FedMF, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedMF on one federation; the arguments are those of `fedem`."""
    backbone = MF(config.dim, config.init_scale)
    logits, objective = scoring(backbone, config.bce)
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        key_items, key_private, _ = jax.random.split(key, 3)  # the same start as FedEM's
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        user_vector = backbone.init(key_private, table)["params"]
        return State(*averaging.start(config, layout, user_vector, table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        counts = samples[layout.places(participants)]
        total = counts.sum()

        def train(session, clients: Clients, download: Download, id) -> Change:
            user_vector, rows = tree_at(clients.private, id), session.rows
            start = from_storage(download.items[rows])
            optimiser = optax.adam(hyper.lr_embedding)
            user_vector, table, trained = fit_embedding(
                objective, user_vector, start, session, optimiser
            )
            share = averaging.share_of(config, session.count, total, num_participants)
            moved = clipped(config, table - start, hyper.ldp_clip)
            sent = Contribution(rows, share * moved, ())
            return averaging.change(config, user_vector, trained, sent, table)

        rule = Rule.of(config, hyper.threshold)
        phases = [Phase(train, everybody, layout.classes)]
        nothing = Sum(jnp.zeros((num_items, config.dim)), ())
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, participants, nothing
        )
        shares = averaging.share_of(config, counts, total, num_participants)
        upload = noisy_sum(config, draws, participants, shares, upload, layout, hyper)
        return State(clients, averaging.serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return averaging.scores(logits, *state, ids, layout)

    def scratch(block: int) -> dict[str, int]:
        return averaging.scratch(config, layout, num_items, block)

    table = num_participants * storage_dtype(config).itemsize * num_items * config.dim
    traffic = Traffic(up=table + 4 * num_participants, down=table)
    hyper = numbers_of(Hyper, config)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)

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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fedem_jax.client.local import fit_in_turn
from fedem_jax.client.privacy import clipped, noisy_sum
from fedem_jax.config.settings import PFedRec
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Contribution, Phase, Sum, everybody, train_clients
from fedem_jax.core.samples import Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server import averaging
from fedem_jax.server.averaging import Clients, Download


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_network: Float[Array, ""]
    """Gradient step of w_u and c_u."""
    lr_item_factor: Float[Array, ""]
    """Gradient step of Q_u, as a multiple of lr_network times the number of items."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of Q_u - G, where the configuration has a bound."""


def pfedrec(
    config: PFedRec, num_items: int, layout: Layout, samples: Int[Array, " C"]
) -> Algorithm:
    """PFedRec on one federation; the arguments are those of `fedem`."""
    backbone = Linear()
    logits, objective = scoring(backbone, config.bce)
    num_participants, _ = config.round_sizes(layout.number)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0, w_0 and c_0."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        score_function = backbone.init(key_private, table)["params"]
        return State(*averaging.start(config, layout, score_function, table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        lr_items = hyper.lr_network * num_items * hyper.lr_item_factor

        def train(session, clients: Clients, download: Download, id) -> Change:
            score_function, rows = tree_at(clients.private, id), session.rows
            start = from_storage(download.items[rows])
            score_function, table, trained = fit_in_turn(
                objective, score_function, start, session, hyper.lr_network, lr_items
            )
            moved = clipped(config, table - start, hyper.ldp_clip)
            sent = Contribution(rows, moved / num_participants, ())
            return averaging.change(config, score_function, trained, sent, table)

        rule = Rule.of(config, jnp.float32(0))
        phases = [Phase(train, everybody, layout.classes)]
        nothing, participants = Sum(jnp.zeros((num_items, config.dim)), ()), draws.participants()
        clients, info, upload = train_clients(
            phases, layout, draws, rule, num_items, state, participants, nothing
        )
        shares = jnp.full(num_participants, 1 / num_participants)
        upload = noisy_sum(config, draws, participants, shares, upload, layout, hyper)
        return State(clients, averaging.serve(state.server, upload)), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        return averaging.scores(logits, *state, ids, layout)

    def scratch(block: int) -> dict[str, int]:
        return averaging.scratch(config, layout, num_items, block)

    table = num_participants * storage_dtype(config).itemsize * num_items * config.dim
    hyper, traffic = numbers_of(Hyper, config), Traffic(up=table, down=table)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)

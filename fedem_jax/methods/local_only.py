"""Local-only: every client trains alone, with no server at all.

    clients, in parallel:  (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)

It holds no information about items that the client never met, so it belongs at chance level; a
protocol under which it ranks held-out items high leaks them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.local import fit_embedding
from fedem_jax.config.settings import LocalOnly
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Phase, everybody, train_clients, training_scratch
from fedem_jax.core.samples import Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models.mf import MF, item_table
from fedem_jax.models.scoring import scoring


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] user vectors p_u."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table."""


def local_only(
    config: LocalOnly, num_items: int, layout: Layout, samples: Int[Array, " C"]
) -> Algorithm:
    """Local-only on one federation; the arguments are those of `fedem`."""
    backbone = MF(config.dim, config.init_scale)
    logits, objective = scoring(backbone, config.bce)

    def init(key: Key[Array, ""]) -> State:
        key_items, key_private, _ = jax.random.split(key, 3)  # the same start as FedEM's
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        clients = Clients(private, to_storage(table, storage_dtype(config)))
        clients = jax.tree.map(lambda x: jnp.broadcast_to(x, (layout.padded, *x.shape)), clients)
        return State(clients, ())

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        def train(session, clients: Clients, _, id) -> Change:
            private, rows = tree_at(clients.private, id), session.rows
            table, optimiser = from_storage(clients.items[id, rows]), optax.adam(hyper.lr_embedding)
            private, table, trained = fit_embedding(objective, private, table, session, optimiser)
            return Change({"private": private}, trained, rows, table)

        rule = Rule.of(config, hyper.threshold)
        phases = [Phase(train, everybody, layout.classes)]
        clients, info, _ = train_clients(
            phases, layout, draws, rule, num_items, state, draws.participants()
        )
        return State(clients, ()), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, rows = tree_at(state.clients, ids)
        return jax.vmap(logits)(private, from_storage(rows))

    def scratch(block: int) -> dict[str, int]:
        return training_scratch(layout, num_items, config.dim, block)

    hyper = numbers_of(Hyper, config)
    traffic = Traffic(up=0, down=0)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)

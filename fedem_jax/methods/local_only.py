"""Local-only: every client trains alone, with no server at all.

    clients, in parallel:  (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)

It holds no information about items that the client never met, so it belongs at chance level. A
protocol under which it ranks held-out items high leaks them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.fitting import Fit, fit_of, visits
from fedem_jax.config.settings import LocalOnly
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, copies, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Phase,
    RoundContext,
    train_clients,
    training_scratch,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import initial, scoring


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
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


def local_only(config: LocalOnly, layout: Layout) -> Algorithm:
    """Local-only on one federation.

    Args:
        config: sizes and switches; its numbers reach `init`, `round` and `score` as `Hyper`.
        layout: how the clients are laid out over devices, size classes and blocks.
    """
    backbone = MF(config.dim)
    model = scoring(backbone, config.bce, config.loss)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0 and p_0."""
        private, table = initial(backbone, key, layout.num_items, config.dim, hyper.init_scale)
        clients = Clients(private, to_storage(table, storage_dtype(config)))
        return State(copies(clients, layout), ())

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        adam = optax.adam(hyper.lr_embedding)
        fit = fit_of(config, model.objective, adam, hyper.lr_embedding)
        phases = [Phase(partial(train_alone, fit))]
        clients, info, _ = train_clients(context, phases, state)
        return State(clients, ()), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, table = at_place(state.clients, places)
        return jax.vmap(model.logits)(private, from_storage(table))

    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(up=0, down=0),
        scratch=partial(
            training_scratch, layout, config.dim, visits=visits(config), pairs=config.pairs
        ),
        moves_all=0.0,
    )


def train_alone(
    fit: Fit, samples: ClientSamples, clients: Clients, server: Any, place: Int[Array, ""]
) -> Change:
    """(p_u, Q_u) <- local epochs of Adam, on the rows that the client's samples touch."""
    private = at_place(clients.private, place)
    table = from_storage(clients.items[place, samples.rows])
    private, table, trained = fit(private, table, samples)
    return Change({"private": private}, trained, samples.rows, table)

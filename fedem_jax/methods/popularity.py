"""Popularity: items by the number of clients that have them in their training set.

    the server:  n_i <- clients that trained on item i; repeats of a client count once
    score of every client:  n_i

The loss that a round reports is the mean over all items of (x_ui - n_i / C)^2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fedem_jax.config.references import Popularity
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.methods.closed_form import once, pooled, pooling_scratch, squared_error, visit


class Hyper(NamedTuple):
    """There is no number that a sweep may vary."""


class Server(NamedTuple):
    """All that the clients are served."""

    count: Int[Array, " I"]
    """n_i."""


def popularity(config: Popularity, layout: Layout) -> Algorithm:
    """Ranking by popularity; the arguments are those of `local_only`. Clients keep nothing."""

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        return State((), Server(jnp.zeros(layout.num_items, jnp.int32)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        clients = pooled(config, layout, draws)

        def add(x, places, nothing, total):
            return nothing, total + x.sum(axis=0).astype(jnp.int32)

        _, count = visit(layout, clients, add, (), jnp.zeros(layout.num_items, jnp.int32))
        share = count / layout.num_clients
        loss = squared_error(layout, clients, lambda x: jnp.broadcast_to(share, x.shape))
        return State((), Server(count)), once(layout, loss)

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        each = state.server.count.astype(jnp.float32)
        return jnp.broadcast_to(each, (len(places), len(each)))

    def scratch(block: int) -> dict[str, int]:
        """Pool: also the items of all clients, a bit each."""
        bits = layout.padded * layout.num_items // 32
        phases = pooling_scratch(config, layout, block)
        return {
            "pool": phases["pool"] + bits,
            "fit": bits + 3 * block * layout.num_items,
            "evaluate": 9 * block * layout.num_items,
        }

    return Algorithm(
        init,
        round,
        score,
        hyper=Hyper(),
        traffic=Traffic(up=0, down=0),
        scratch=scratch,
        log_odds=False,
    )

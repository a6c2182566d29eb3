"""A client that was not there: it trains its private part alone, with a table of the server."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax import lax
from jaxtyping import Array, Float

from fedem_jax.client.local import Objective, descend, loss_of_rows
from fedem_jax.core.algorithm import Newcomer
from fedem_jax.core.blocks import BLOCK


def trained_alone(
    objective: Objective,
    private: Any,
    table: Float[Array, "I D"],
    optimiser: optax.GradientTransformation,
    newcomer: Newcomer,
) -> Any:
    """The private part after the newcomer's rounds of local epochs; the table stays as it is.

    Args:
        objective: training loss.
        private: what the clients start from.
        table: what the server hands out.
        optimiser: of the private part, made anew for each round.
        newcomer: its samples and rounds.
    """

    def one(private):
        def train(number, private):
            samples = newcomer.samples(number)
            rows = table[samples.rows]

            def batch_loss(private, row, present):
                return loss_of_rows(objective, private, rows, samples, row, present)

            return descend(batch_loss, private, samples, optimiser)[0]

        return lax.fori_loop(0, newcomer.rounds, train, private)

    alone = jax.vmap(one, axis_name=BLOCK)(jax.tree.map(lambda leaf: leaf[None], private))
    return jax.tree.map(lambda leaf: leaf[0], alone)

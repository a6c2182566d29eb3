"""A client's user vector in closed form, from all items (FCF), and local training with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fedem_jax.core.linalg import solution
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples


class ClosedForm(NamedTuple):
    """Numbers of local training that solves for the user vector, then moves the table."""

    step: Float[Array, ""]
    """Plain step of the table along half the gradient of the loss."""
    confidence: Float[Array, ""]
    """alpha: extra weight of a positive over all other items, c_i = 1 + alpha y_i."""
    regularization: Float[Array, ""]
    """lambda: L2 penalty of the user vector."""


def user_vector(
    gram: Float[Array, "D D"],
    own: Float[Array, "n D"],
    confidence: Float[Array, ""],
    regularization: Float[Array, ""],
) -> Float[Array, " D"]:
    """p = (Q' C Q + lambda I)^-1 Q' C y, of a client whose loss has all items (FCF).

    Args:
        gram: Q' Q over all items.
        own: rows of the client's positives; rows of zeros count nothing.
        confidence: alpha, extra weight of a positive.
        regularization: lambda.
    """
    matrix = gram + confidence * own.T @ own + regularization * jnp.eye(len(gram))
    return solution(matrix, (1 + confidence) * own.sum(axis=0))


def fit_closed_form(
    objective: Any,
    private: dict[str, Array],
    table: Float[Array, "I D"],
    samples: ClientSamples,
    optimiser: ClosedForm,
) -> tuple[dict[str, Array], Float[Array, "I D"], Trained]:
    """Solve for p_u, then move the whole table, once in each local epoch.

    The loss is the mean over all items of c_i (y_i - p . q_i)^2. So nothing is sampled but what the
    client has. A client without positives keeps what it has.

    Args:
        objective: of other ways of local training; not used.
        private: p_u, as `user`; only a client without positives keeps it.
        table: all rows of its item table.
        samples: of the client, over all items.
        optimiser: the numbers.
    """
    label = samples.labels
    weight = 1 + optimiser.confidence * label

    def epoch(e, carry):
        _, table, running = carry
        own = label[:, None] * table
        user = user_vector(table.T @ table, own, optimiser.confidence, optimiser.regularization)
        error = label - table @ user
        loss = jnp.mean(weight * error**2)
        table = table + optimiser.step * (weight * error)[:, None] * user[None, :]
        before = jnp.where(e > 0, running[e - 1], 0.0)
        return user, table, running.at[e].set(before + (loss - before) / (e + 1))

    epochs = samples.rule.local_epochs
    start = (private["user"], table, jnp.full(epochs, jnp.nan))
    user, moved, running = lax.fori_loop(0, epochs, epoch, start)
    trains = label.sum() > 0
    running = jnp.where(trains, running, jnp.nan)
    return (
        {"user": jnp.where(trains, user, private["user"])},
        jnp.where(trains, moved, table),
        Trained(running, running[-1], jnp.where(trains, epochs, 0)),
    )

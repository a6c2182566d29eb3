"""A client's user vector in closed form, from all items (FCF), and local training with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from fedem_jax.config.base import Config
from fedem_jax.core.layout import Layout
from fedem_jax.core.linalg import solution
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

NARROWEST = 32
"""Clients side by side at least, unless a block size is set, where all solve by one table: their
arrays are small."""


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


class Solved(NamedTuple):
    """One client with its closed form."""

    user: Float[Array, " D"]
    """p_u; 0 if it has no items."""
    items: Int[Array, " n"]
    """Its own items, each once; I: none."""
    scores: Float[Array, " n"]
    """s_i = p_u . q_i of those; 0 where there is none."""
    loss: Float[Array, ""]
    """Mean over all items of c_i (y_i - s_i)^2."""


def solved(
    table: Float[Array, "I D"], gram: Float[Array, "D D"], numbers: Any, own: Int[Array, " n"]
) -> Solved:
    """A client that holds these items, from a table that it has in common with others.

    Args:
        table: Q.
        gram: Q' Q, which is the same for all of them.
        numbers: `confidence` and `regularization`.
        own: its items, each once; I: none.
    """
    rows = table.at[own].get(mode="fill", fill_value=0)
    user = user_vector(gram, rows, numbers.confidence, numbers.regularization)
    scores = rows @ user
    extra = (1 + numbers.confidence) * (1 - scores) ** 2 - scores**2
    lost = user @ gram @ user + jnp.sum(jnp.where(own < len(table), extra, 0.0))
    return Solved(user, own, scores, lost / len(table))


def side_by_side(config: Config, block: int) -> int:
    """How many clients solve side by side by one table, where others have blocks of `block`."""
    return config.block_size or max(block, NARROWEST)


def solving_scratch(config: Config, layout: Layout, block: int) -> int:
    """Numbers that XLA keeps at once to solve for a block of clients by one table: samples, own
    rows and their weighted copies, two matrices and the place of every item for each of them.

    Args:
        config: sizes.
        layout: the size classes.
        block: clients side by side where each has a table.
    """
    most, dim = max(size.positives for size in layout.classes), config.dim
    each = most * (1 + config.num_negative + 2 * dim) + 2 * dim * (dim + 1) + layout.num_items
    return side_by_side(config, block) * each


def pull(client: Solved, confidence: Float[Array, ""]) -> Float[Array, "n D"]:
    """(1 + alpha - alpha s_i) p_u, how a client pulls the rows of its own items.

    Minus half the gradient of its loss is c_i (y_i - s_i) p_u for every item i: this at its own
    items, less s_i p_u at all. So over many clients these sum to the pulls, less Q times the sum of
    the p_u p_u'.

    Args:
        client: who pulls.
        confidence: alpha.
    """
    weight = 1 + confidence - confidence * client.scores
    return weight[:, None] * client.user[None, :]


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

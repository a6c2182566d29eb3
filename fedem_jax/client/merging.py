"""Elastic merging: how a client takes up the table that the server aggregated for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from fedem_jax.client.local import (
    Objective,
    Optimiser,
    as_weighed,
    descend,
    first_row_weights,
    memory_of,
    run_epochs,
    stepped,
)
from fedem_jax.core.algorithm import at_place
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

RhoOf = Callable[..., Array]
"""`(adapter, local [M D], aggregated [M D], evidence [M ...]) -> rho [M]`: how much of the
aggregated row."""


def merged(
    local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"], rho: Float[Array, "*M"]
) -> Float[Array, "*M D"]:
    """q + rho (g - q), row by row: 0 keeps the local row, 1 replaces it."""
    return local + rho[..., None] * (aggregated - local)


def taken_up(
    waits: Bool[Array, " B"],
    local: Float[Array, "B I D"],
    take_up: Callable[[Float[Array, "B I D"]], Float[Array, "B I D"]],
) -> Float[Array, "B I D"]:
    """The tables of clients as they would use them now.

    Args:
        waits: for which of them a table of the server waits.
        local: their own tables.
        take_up: their own tables with the waiting ones taken up; not computed if nothing waits.
    """

    def mixed(local):
        return jnp.where(waits[:, None, None], take_up(local), local)

    any_waits = over_trials(waits.any().astype(jnp.int32))
    return lax.cond(any_waits > 0, mixed, lambda local: local, local)


def fit_adapter(
    objective: Objective,
    rho_of: RhoOf,
    adapter: Any,
    private: Any,
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    evidence: Float[Array, "M *F"] | None,
    samples: ClientSamples,
    optimiser: optax.GradientTransformation,
) -> Any:
    """Fit the adapter alone (`merging = once`).

    Args:
        objective: loss of rows that the adapter is fitted by.
        rho_of: rho of rows.
        adapter: its parameters, theta_u.
        private, table, aggregated, evidence: the client's own parameters, its rows, those that the
            server aggregated for it, and what else rho depends on; all are held fixed.
        samples: those that the adapter is fitted on.
        optimiser: of the adapter.
    """

    def batch_loss(adapter, row, present):
        share = first_row_weights(row, present, samples.rows.shape[0])
        local, target = table[row], aggregated[row]
        rows = merged(local, target, rho_of(adapter, local, target, at_place(evidence, row)))
        weights = as_weighed(objective, share, present)
        return objective(private, rows, samples.labels[row], weights)

    adapter, _ = descend(batch_loss, adapter, samples, optimiser)
    return adapter


def fit_elastic(
    objective: Objective,
    of_adapter: Objective,
    rho_of: RhoOf,
    adapter: Any,
    private: Any,
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    samples: ClientSamples,
    adapt: optax.GradientTransformation,
    embed: Optimiser,
) -> tuple[Any, Any, Float[Array, "M D"], Trained]:
    """Train adapter and embeddings in turn, batch by batch (`merging = per-batch`).

    The rows of `table` are merged already, and every batch merges the result again with the same
    aggregated rows (released program). Both steps of a batch score with rows merged anew. The first
    moves the adapter. The second moves, with the new adapter, the client's own parameters and its
    table, whose gradient also runs through rho. The aggregated table is a constant. The adapter
    costs most, so rows are gathered batch by batch.

    Args:
        objective: loss of rows that embeddings are trained by.
        of_adapter: the same of the adapter.
        rho_of, adapter, private, table, aggregated, samples: as for `fit_adapter`.
        adapt: optimiser of the adapter.
        embed: optimiser of the pair `(private, table)`.
    """

    def step(carry, row, present):
        adapter, embedding, adapter_moments, moments = carry
        share = first_row_weights(row, present, samples.rows.shape[0])
        target, label = aggregated[row], samples.labels[row]

        def loss_by(objective, private, rows):
            return objective(private, rows, label, as_weighed(objective, share, present))

        def rows_of(adapter, table):
            local = table[row]
            return merged(local, target, rho_of(adapter, local, target, None))

        def adapter_loss(adapter):
            private, table = embedding
            return loss_by(of_adapter, private, rows_of(adapter, table))

        update, adapter_moments = adapt.update(jax.grad(adapter_loss)(adapter), adapter_moments)
        adapter = optax.apply_updates(adapter, update)

        def embedding_loss(embedding):
            private, table = embedding
            return loss_by(objective, private, rows_of(adapter, table))

        embedding, moments, loss = stepped(embedding_loss, embedding, moments, embed)
        return (adapter, embedding, adapter_moments, moments), loss

    embedding = (private, table)
    start = (adapter, embedding, adapt.init(adapter), memory_of(embed, embedding))
    (adapter, (private, table), *_), trained = run_epochs(step, start, samples)
    return adapter, private, table, trained

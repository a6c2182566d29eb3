"""Elastic merging: how a client takes up the table that the server aggregated for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from fedem_jax.client.local import Objective, place_weights, run_epochs
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

Weigh = Callable[[Any, Array, Array], Array]
"""`(adapter, local [M D], aggregated [M D]) -> rho [M]`: share of the aggregated row."""


def merged(
    local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"], rho: Float[Array, "*M"]
) -> Float[Array, "*M D"]:
    """q + rho (g - q), row by row: 0 keeps the local row, 1 replaces it."""
    return local + rho[..., None] * (aggregated - local)


def fit_adapter(
    objective: Objective,
    weigh: Weigh,
    adapter: Any,
    private: Any,
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    session: ClientSamples,
    optimiser: optax.GradientTransformation,
) -> Any:
    """Fit the adapter alone on the client's samples, all tables held fixed (`merging = once`)."""

    def step(carry, row, present):
        adapter, moments = carry
        weights = place_weights(row, present, session.rows.shape[0])
        local, target, label = table[row], aggregated[row], session.labels[row]

        def batch_loss(adapter):
            rows = merged(local, target, weigh(adapter, local, target))
            return objective(private, rows, label, weights)

        loss, gradient = jax.value_and_grad(batch_loss)(adapter)
        update, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(adapter, update), moments), loss

    (adapter, _), _ = run_epochs(step, (adapter, optimiser.init(adapter)), session)
    return adapter


def fit_elastic(
    objective: Objective,
    weigh: Weigh,
    adapter: Any,
    private: Any,
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    session: ClientSamples,
    adapt: optax.GradientTransformation,
    embed: optax.GradientTransformation,
) -> tuple[Any, Any, Float[Array, "M D"], Trained]:
    """Train adapter and embeddings in turn, batch by batch (`merging = per-batch`), by the
    optimisers `adapt` of the adapter and `embed` of the pair `(private, table)`.

    Both steps score with rows merged anew. The first moves the adapter; the second, with the moved
    adapter, the client's own parameters and its table, whose gradient also runs through rho. The
    aggregated table is a constant. The adapter costs most, so rows are gathered batch by batch.
    """

    def step(carry, row, present):
        adapter, embedding, adapter_moments, moments = carry
        weights = place_weights(row, present, session.rows.shape[0])
        target, label = aggregated[row], session.labels[row]

        def batch_loss(adapter, embedding):
            private, table = embedding
            local = table[row]
            rows = merged(local, target, weigh(adapter, local, target))
            return objective(private, rows, label, weights)

        gradient = jax.grad(batch_loss, argnums=0)(adapter, embedding)
        update, adapter_moments = adapt.update(gradient, adapter_moments)
        adapter = optax.apply_updates(adapter, update)

        loss, gradient = jax.value_and_grad(batch_loss, argnums=1)(adapter, embedding)
        update, moments = embed.update(gradient, moments, embedding)
        embedding = optax.apply_updates(embedding, update)
        return (adapter, embedding, adapter_moments, moments), loss

    embedding = (private, table)
    start = (adapter, embedding, adapt.init(adapter), embed.init(embedding))
    (adapter, (private, table), *_), trained = run_epochs(step, start, session)
    return adapter, private, table, trained

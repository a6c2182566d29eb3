"""Elastic merging: how a client takes up the table that the server aggregated for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from fedem_jax.client.local import (
    Objective,
    descend,
    first_row_weights,
    fit_embedding,
    fit_network,
    run_epochs,
)
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples, hold_out
from fedem_jax.models import ncf
from fedem_jax.models.adapter import Adapter, Single
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import scoring

RhoOf = Callable[[Any, Array, Array], Array]
"""`(adapter, local [M D], aggregated [M D]) -> rho [M]`: how much of the aggregated row."""


class ElasticClient(NamedTuple):
    """What a client of FedEM trains, and by which optimisers."""

    config: FedEM
    backbone: MF | ncf.NCF
    """Of the scores: p_u . q_i, or f_u(p_u, q_i)."""
    logits: Callable[..., Any]
    objective: Objective
    fit: Callable[..., Any]
    """Trains the backbone's own parameters and rows of Q_u together."""
    adapter: Adapter | Single

    @classmethod
    def of(cls, config: FedEM) -> ElasticClient:
        """The client that the settings describe."""
        if config.backbone == "mf":
            backbone, fit = MF(config.dim), fit_embedding
        else:
            backbone, fit = ncf.NCF(config.dim, config.network_widths), fit_network
        adapter = Adapter(config.adapter_widths) if config.adapter == "row" else Single()
        return cls(config, backbone, *scoring(backbone, config.bce), fit, adapter)

    def adam(self, hyper: Any) -> optax.GradientTransformation:
        """Optimiser of the pair `(private, table)`."""
        if self.config.backbone == "mf":
            return optax.adam(hyper.lr_embedding)
        return ncf.adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)

    def split(self, samples: ClientSamples) -> tuple[ClientSamples, ClientSamples]:
        """The samples that p_u and Q_u are fitted on, and those that the adapter is."""
        if not self.config.adapter_holdout:
            return samples, samples
        return hold_out(samples, self.config.adapter_holdout, 1 + self.config.num_negative)

    def rho(
        self, hyper: Any, theta: Any, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        """How much of each aggregated row the client takes up."""
        if self.config.learns_rho:
            return jnp.asarray(self.adapter.apply({"params": theta}, local, aggregated))
        return jnp.full(local.shape[:-1], hyper.rho)


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
    samples: ClientSamples,
    optimiser: optax.GradientTransformation,
) -> Any:
    """Fit the adapter alone (`merging = once`).

    Args:
        objective: loss of rows, as a weighted sum.
        rho_of: rho of rows.
        adapter: its parameters, theta_u.
        private, table, aggregated: the client's own parameters, its rows and those that the server
            aggregated for it; all three are held fixed.
        samples: those that the adapter is fitted on.
        optimiser: of the adapter.
    """

    def batch_loss(adapter, row, present):
        weights = first_row_weights(row, present, samples.rows.shape[0])
        local, target = table[row], aggregated[row]
        rows = merged(local, target, rho_of(adapter, local, target))
        return objective(private, rows, samples.labels[row], weights)

    adapter, _ = descend(batch_loss, adapter, samples, optimiser)
    return adapter


def fit_elastic(
    objective: Objective,
    rho_of: RhoOf,
    adapter: Any,
    private: Any,
    table: Float[Array, "M D"],
    aggregated: Float[Array, "M D"],
    samples: ClientSamples,
    adapt: optax.GradientTransformation,
    embed: optax.GradientTransformation,
) -> tuple[Any, Any, Float[Array, "M D"], Trained]:
    """Train adapter and embeddings in turn, batch by batch (`merging = per-batch`).

    The rows of `table` are merged already, and every batch merges the result again with the same
    aggregated rows (released program). Both steps of a batch score with rows merged anew. The first
    moves the adapter. The second moves, with the new adapter, the client's own parameters and its
    table, whose gradient also runs through rho. The aggregated table is a constant. The adapter
    costs most, so rows are gathered batch by batch.

    Args:
        objective, rho_of, adapter, private, table, aggregated, samples: as for `fit_adapter`.
        adapt: optimiser of the adapter.
        embed: optimiser of the pair `(private, table)`.
    """

    def step(carry, row, present):
        adapter, embedding, adapter_moments, moments = carry
        weights = first_row_weights(row, present, samples.rows.shape[0])
        target, label = aggregated[row], samples.labels[row]

        def batch_loss(adapter, embedding):
            private, table = embedding
            local = table[row]
            rows = merged(local, target, rho_of(adapter, local, target))
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
    (adapter, (private, table), *_), trained = run_epochs(step, start, samples)
    return adapter, private, table, trained

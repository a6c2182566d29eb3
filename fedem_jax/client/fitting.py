"""Local training of a client of matrix factorisation, on the path that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import Array, Float

from fedem_jax.client.fused import Adam, Products, fit_fused
from fedem_jax.client.fused_merging import fit_merging
from fedem_jax.client.local import InTurn, Objective, Optimiser, fit_embedding
from fedem_jax.client.merging import RhoOf, fit_elastic
from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedMF, LocalOnly
from fedem_jax.config.shared import is_fused
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

Fit = Callable[[Any, Float[Array, "M D"], ClientSamples], tuple[Any, Float[Array, "M D"], Trained]]
"""`(private, table, samples) -> (private, table, trained)`."""
ElasticFit = Callable[..., tuple[Any, Any, Float[Array, "M D"], Trained]]
"""`(adapter, private, table, aggregated, samples) -> (adapter, private, table, trained)`."""


def fit_of(
    config: LocalOnly | FedMF | FedEM,
    objective: Objective,
    optimiser: Optimiser,
    lr: Float[Array, ""],
) -> Fit:
    """Local epochs of one client by XLA or, with `local_training = fused`, in one kernel.

    Args:
        config: names the path and the loss.
        objective: that loss of rows.
        optimiser: of the pair `(private, table)`: Adam, or plain steps in turn.
        lr: step size of Adam.
    """

    def by_xla(private, table, samples):
        return fit_embedding(objective, private, table, samples, optimiser)

    def fused(private, table, samples):
        scores, steps = Products(config.bce), fused_steps(optimiser, lr)
        _, user, table, trained = fit_fused(
            scores, (), private["user"], table, None, samples, steps
        )
        return {"user": user}, table, trained

    return fused if is_fused(config) else by_xla


def elastic_fit_of(
    config: FedEM,
    objective: Objective,
    of_adapter: Objective,
    rho_of: RhoOf,
    adapt: optax.GradientTransformation,
    embed: Optimiser,
    hyper: Any,
) -> ElasticFit:
    """Local epochs of one client that merges batch by batch, on the same two paths.

    Args:
        config: names the path and the loss.
        objective, of_adapter, rho_of, adapt, embed: as for `fit_elastic`.
        hyper: the numbers `lr_embedding` and `lr_adapter`.
    """

    def by_xla(adapter, private, table, aggregated, samples):
        return fit_elastic(
            objective, of_adapter, rho_of, adapter, private, table, aggregated, samples,
            adapt, embed,
        )  # fmt: skip

    def fused(adapter, private, table, aggregated, samples):
        adapter, user, table, trained = fit_merging(
            config.bce, adapter, hyper.lr_adapter, private["user"], table, aggregated, samples,
            fused_steps(embed, hyper.lr_embedding),
        )  # fmt: skip
        return adapter, {"user": user}, table, trained

    return fused if is_fused(config) else by_xla


def fused_steps(optimiser: Optimiser, lr: Float[Array, ""]) -> Adam | InTurn:
    """An optimiser as the kernel takes it.

    Args:
        optimiser: of the pair `(private, table)`.
        lr: step size of Adam.
    """
    return optimiser if isinstance(optimiser, InTurn) else Adam(lr)


def visits(config: Config) -> int:
    """Numbers kept for each positive of a client, so that the kernel knows the rows that it
    visits: those of its samples, epoch by epoch, before and after they are looked up."""
    return 2 * config.local_epochs * (1 + config.num_negative) if is_fused(config) else 0

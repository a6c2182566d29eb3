"""Local training of a client of matrix factorisation, on the path that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from fedem_jax.client.fused import Adam, fit_fused
from fedem_jax.client.local import InTurn, Objective, Optimiser, fit_embedding
from fedem_jax.config.settings import FedMF, LocalOnly
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

Fit = Callable[[Any, Float[Array, "M D"], ClientSamples], tuple[Any, Float[Array, "M D"], Trained]]
"""`(private, table, samples) -> (private, table, trained)`."""


def fit_of(
    config: LocalOnly | FedMF, objective: Objective, optimiser: Optimiser, lr: Float[Array, ""]
) -> Fit:
    """Local epochs of one client by XLA or, with `local_training = fused`, in one kernel.

    Args:
        config: names the path and the loss.
        objective: that loss of rows, as a weighted sum.
        optimiser: of the pair `(private, table)`: Adam, or plain steps in turn.
        lr: step size of Adam.
    """

    def by_xla(private, table, samples):
        return fit_embedding(objective, private, table, samples, optimiser)

    def fused(private, table, samples):
        steps = optimiser if isinstance(optimiser, InTurn) else Adam(lr)
        user, table, trained = fit_fused(config.bce, private["user"], table, samples, steps)
        return {"user": user}, table, trained

    return fused if config.local_training == "fused" else by_xla

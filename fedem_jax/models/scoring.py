"""A backbone as functions of its parameters: what it scores, and the loss it is trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fedem_jax.models.losses import LOSSES
from fedem_jax.models.mf import Scale


class Scoring(NamedTuple):
    """Both functions of one client."""

    logits: Callable[[Any, Float[Array, "*M D"]], Float[Array, "*M"]]
    """`(private, rows) -> logits`."""
    objective: Callable[..., Float[Array, ""]]
    """`(private, rows [M D], labels [M], weights [M]) -> loss`: weighted sum over the rows."""


def start_of(
    backbone: nn.Module, key: Key[Array, ""], rows: Float[Array, "M D"], scale: Scale
) -> Any:
    """Initial parameters of a backbone that has a `scale`, its standard deviation."""
    return backbone.clone(scale=scale).init(key, rows)["params"]


def scoring(backbone: nn.Module, bce: str) -> Scoring:
    """Scores of a backbone, and their binary cross-entropy in the named form."""
    loss = LOSSES[bce]

    def logits(private, rows) -> Float[Array, "*M"]:
        return jnp.asarray(backbone.apply({"params": private}, rows))

    def objective(private, rows, labels, weights):
        return jnp.sum(weights * loss(logits(private, rows), labels))

    return Scoring(logits, objective)

"""A backbone as pure functions of its parameters: scores and training loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fedem_jax.models.losses import LOSSES
from fedem_jax.models.mf import Scale, item_table


class Scoring(NamedTuple):
    """Scores and training loss of one client."""

    logits: Callable[[Any, Float[Array, "*M D"]], Float[Array, "*M"]]
    """`(private, rows) -> logits`."""
    objective: Callable[..., Float[Array, ""]]
    """`(private, rows [M D], labels [M], weights [M]) -> loss`, the weighted sum over the rows."""


def initial(
    backbone: nn.Module, key: Key[Array, ""], num_items: int, dim: int, scale: Scale
) -> tuple[Any, Float[Array, "I D"]]:
    """Parameters of a backbone that has a `scale`, and an item table, both N(0, scale^2).

    Methods that share a key start from the same numbers. (FedEM draws its adapter by a third key,
    which is split off here and left unused.)

    Args:
        backbone: of one client.
        key: of the run.
        num_items, dim: I, D.
        scale: standard deviation; traced where a sweep varies it.
    """
    key_items, key_private, _ = jax.random.split(key, 3)
    table = item_table(key_items, num_items, dim, scale)
    return backbone.clone(scale=scale).init(key_private, table)["params"], table


def scoring(backbone: nn.Module, bce: str) -> Scoring:
    """Scores of a backbone and their binary cross-entropy; `bce` is a name in `LOSSES`."""
    loss = LOSSES[bce]

    def logits(private, rows) -> Float[Array, "*M"]:
        return jnp.asarray(backbone.apply({"params": private}, rows))

    def objective(private, rows, labels, weights):
        return jnp.sum(weights * loss(logits(private, rows), labels))

    return Scoring(logits, objective)

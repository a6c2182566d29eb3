"""The adapter of FedEM: the weight rho of the aggregated row, for each item.

A single weight for all items, and a logistic model of a few features, have far fewer parameters.
Each has `raised`, which sets where rho starts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.models.perceptron import perceptron


class Single(nn.Module):
    """rho = sigmoid(t): a single weight for the whole table, which starts at 1/2."""

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        weight = nn.sigmoid(self.param("weight", nn.initializers.zeros, ()))
        return jnp.broadcast_to(weight, local.shape[:-1])

    def raised(self, theta: Any, by: Float[Array, ""]) -> Any:
        """The parameters with which the logit of rho is `by` higher."""
        return {"weight": theta["weight"] + by}


class Logistic(nn.Module):
    """rho = sigmoid(w . x) for the features x of each item, the first of which is 1; it starts at
    1/2."""

    @nn.compact
    def __call__(self, features: Float[Array, "*M F"]) -> Float[Array, "*M"]:
        weights = self.param("weights", nn.initializers.zeros, features.shape[-1:])
        return nn.sigmoid(features @ weights)

    def raised(self, theta: Any, by: Float[Array, ""]) -> Any:
        """The parameters with which the logit of rho is `by` higher for all items."""
        return {"weights": theta["weights"].at[0].add(by)}


class Adapter(nn.Module):
    """rho = sigmoid(MLP([q ; g - q])) in (0, 1): a weight for each item.

    Here q is the local and g the aggregated row of the item. `widths` are the hidden widths.
    """

    widths: tuple[int, ...] = (16, 8)

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        rows = jnp.concatenate([local, aggregated - local], axis=-1)
        return nn.sigmoid(perceptron(rows, self.widths))

    def raised(self, theta: Any, by: Float[Array, ""]) -> Any:
        """The parameters with which the logit of rho is `by` higher for all items."""
        last = f"Dense_{len(self.widths)}"
        return theta | {last: theta[last] | {"bias": theta[last]["bias"] + by}}

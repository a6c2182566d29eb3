"""The adapter of FedEM: decides, item by item, how much of the aggregated row a client takes; and
one weight for all of them, to hold it against."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.models.perceptron import perceptron


class Single(nn.Module):
    """rho = sigmoid(t), one weight for the whole table; it starts at 1/2."""

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        weight = nn.sigmoid(self.param("weight", nn.initializers.zeros, ()))
        return jnp.broadcast_to(weight, local.shape[:-1])


class Adapter(nn.Module):
    """rho = sigmoid(MLP([q ; g - q])) in (0, 1), one weight per item row."""

    widths: tuple[int, ...] = (16, 8)

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        rows = jnp.concatenate([local, aggregated - local], axis=-1)
        return nn.sigmoid(perceptron(rows, self.widths))

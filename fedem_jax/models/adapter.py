"""The adapter of FedEM: decides, item by item, how much of the aggregated row a client takes."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.models.perceptron import perceptron


class Adapter(nn.Module):
    """rho = sigmoid(MLP([q ; g - q])) in (0, 1), one weight per item row."""

    widths: tuple[int, ...] = (16, 8)

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        rows = jnp.concatenate([local, aggregated - local], axis=-1)
        return nn.sigmoid(perceptron(rows, self.widths))

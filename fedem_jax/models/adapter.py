"""The adapter of FedEM: decides, item by item, how much of the aggregated row a client takes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within +-1 / sqrt(fan_in)."""


class Adapter(nn.Module):
    """rho = sigmoid(MLP([q ; g - q])) in (0, 1), one weight per item row.

    ReLU between the layers; weights and biases start uniform within +-1 / sqrt(fan_in).
    """

    widths: tuple[int, ...] = (16, 8)

    @nn.compact
    def __call__(
        self, local: Float[Array, "*M D"], aggregated: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        hidden = jnp.concatenate([local, aggregated - local], axis=-1)
        for layer, width in enumerate((*self.widths, 1)):
            if layer:
                hidden = nn.relu(hidden)
            bound = hidden.shape[-1] ** -0.5
            hidden = nn.Dense(
                width,
                kernel_init=_uniform,
                bias_init=lambda key, shape, dtype, bound=bound: jax.random.uniform(
                    key, shape, dtype, -bound, bound
                ),
            )(hidden)
        return nn.sigmoid(hidden[..., 0])

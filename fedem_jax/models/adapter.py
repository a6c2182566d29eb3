"""The adapter of FedEM: decides, item by item, how much of the aggregated row a client takes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _within(bound: float):
    """Initialiser: uniform within +-bound."""

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


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
            hidden = nn.Dense(width, kernel_init=_within(bound), bias_init=_within(bound))(hidden)
        return nn.sigmoid(hidden[..., 0])

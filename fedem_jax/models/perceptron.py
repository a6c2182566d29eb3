"""The multi-layer perceptron of all networks, initialised as in the released programs."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def perceptron(hidden: Float[Array, "*M F"], widths: Sequence[int]) -> Float[Array, "*M"]:
    """Layers of these widths and a last one of width 1, with ReLU between them.

    Weights and biases start uniform within +-1 / sqrt(fan_in). Call it inside a flax module.
    """
    for layer, width in enumerate((*widths, 1)):
        if layer:
            hidden = nn.relu(hidden)
        bound = hidden.shape[-1] ** -0.5
        hidden = nn.Dense(width, kernel_init=_within(bound), bias_init=_within(bound))(hidden)
    return hidden[..., 0]


def _within(bound: float):
    """Initialiser: uniform within +-bound."""

    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw

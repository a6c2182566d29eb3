"""The score function of PFedRec: linear in the item row, with its own weights for each client."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from fedem_jax.models.perceptron import perceptron


class Linear(nn.Module):
    """Backbone of one client: logit of item i = w_u . q_i + c_u."""

    @nn.compact
    def __call__(self, rows: Float[Array, "*M D"]) -> Float[Array, "*M"]:
        return perceptron(rows, ())

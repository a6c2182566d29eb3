"""NCF: neural collaborative filtering, user vector and item row through a network."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.models.perceptron import perceptron


class NCF(nn.Module):
    """Backbone of one client: logit of item i = MLP([p_u ; q_i]).

    Its parameters are `user`, the vector p_u, which never leaves the client, and `network`.
    """

    dim: int
    widths: tuple[int, ...] = (16, 8)
    scale: float = 1.0

    @nn.compact
    def __call__(self, rows: Float[Array, "*M D"]) -> Float[Array, "*M"]:
        user = self.param("user", nn.initializers.normal(self.scale), (self.dim,))
        users = jnp.broadcast_to(user, (*rows.shape[:-1], self.dim))
        return Network(self.widths, name="network")(jnp.concatenate([users, rows], axis=-1))


class Network(nn.Module):
    """The layers, apart from the user vector, since some methods average them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, pairs: Float[Array, "*M D2"]) -> Float[Array, "*M"]:
        return perceptron(pairs, self.widths)

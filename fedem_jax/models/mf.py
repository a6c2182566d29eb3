"""MF, matrix factorisation: the inner product of user vector and item row."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

Scale = float | Float[Array, ""]
"""Standard deviation of initial parameters. It is traced if a sweep varies it."""


class MF(nn.Module):
    """Backbone of one client: logit of item i = p_u . q_i.

    Its only parameter is the user vector p_u, which never leaves the client. Item rows are input.
    """

    dim: int
    scale: Scale = 1.0

    @nn.compact
    def __call__(self, rows: Float[Array, "*M D"]) -> Float[Array, "*M"]:
        user = self.param("user", nn.initializers.normal(self.scale), (self.dim,))
        return rows @ user


def item_table(key: Key[Array, ""], num_items: int, dim: int, scale: Scale) -> Float[Array, "I D"]:
    """The initial item table Q_0 ~ N(0, scale^2), the same for all clients."""
    return scale * jax.random.normal(key, (num_items, dim))

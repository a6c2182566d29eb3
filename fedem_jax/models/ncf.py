"""NCF, neural collaborative filtering (He, Liao, Zhang, Nie, Hu, Chua, WWW 2017).

A network scores user vector and item row.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fedem_jax.models.mf import Scale
from fedem_jax.models.perceptron import perceptron


class NCF(nn.Module):
    """Backbone of one client: logit of item i = f(p_u, q_i), where the network f is

        mlp:    MLP([p ; q])
        neumf:  last layer of [MLP([p'' ; q'']) ; p' * q'],  p = [p' ; p''], q = [q' ; q'']

    Its parameters are `user` and `network`. The user vector p_u never leaves the client.
    """

    dim: int
    widths: tuple[int, ...] = (16, 8)
    scale: Scale = 1.0
    variant: str = "mlp"

    @nn.compact
    def __call__(self, rows: Float[Array, "*M D"]) -> Float[Array, "*M"]:
        user = self.param("user", nn.initializers.normal(self.scale), (self.dim,))
        network = VARIANTS[self.variant](self.widths, name="network")
        return network(jnp.broadcast_to(user, rows.shape), rows)


class MLP(nn.Module):
    """The network f of `mlp`. It is a module apart, since some methods average its parameters."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, users: Float[Array, "*M D"], rows: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        return perceptron(jnp.concatenate([users, rows], axis=-1), self.widths)


class NeuMF(nn.Module):
    """The network f of `neumf`, with two branches.

    GMF multiplies the first D // 2 entries of both vectors, entry by entry. The MLP takes the other
    entries. The last layer is linear in both branches, so it is written as a sum of two parts. The
    weights of a part start uniform within +-1 / sqrt(inputs of the part).
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, users: Float[Array, "*M D"], rows: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        cut = rows.shape[-1] // 2
        pairs = jnp.concatenate([users[..., cut:], rows[..., cut:]], axis=-1)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        factors = nn.Dense(1, use_bias=False, kernel_init=uniform, name="GMF")
        products = users[..., :cut] * rows[..., :cut]
        return perceptron(pairs, self.widths) + factors(products)[..., 0]


def inside(dim: int, widths: tuple[int, ...]) -> int:
    """Numbers in memory per row: the input of the network and its widest layer."""
    return 2 * dim + max(widths, default=0)


VARIANTS: dict[str, type[MLP] | type[NeuMF]] = {"mlp": MLP, "neumf": NeuMF}


def adam(
    lr_embedding: Float[Array, ""], lr_network: Float[Array, ""], weight_decay: Float[Array, ""]
) -> optax.GradientTransformation:
    """Adam for the pair `(private, table)`.

    The network has its own step size and an L2 penalty. The gradient of the penalty enters the
    moments of Adam, as in the released programs.
    """
    rules = {
        "vectors": optax.adam(lr_embedding),
        "network": optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr_network)),
    }
    return optax.partition(rules, ({"user": "vectors", "network": "network"}, "vectors"))

"""NCF: neural collaborative filtering (He, Liao, Zhang, Nie, Hu, Chua, WWW 2017), user vector and
item row through a network."""

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

    Its parameters are `user`, the vector p_u, which never leaves the client, and `network`.
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
    """The layers, apart from the user vector, since some methods average them."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, users: Float[Array, "*M D"], rows: Float[Array, "*M D"]
    ) -> Float[Array, "*M"]:
        return perceptron(jnp.concatenate([users, rows], axis=-1), self.widths)


class NeuMF(nn.Module):
    """The layers of both branches: the first D // 2 entries of a vector belong to GMF, which
    multiplies them entry by entry; the others to the MLP.

    The last layer, linear in both, is written as the sum of its two parts, whose weights start
    within 1 / sqrt(inputs of the part).
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
    """Numbers that a network holds for each row at once: its input and its widest layer."""
    return 2 * dim + max(widths, default=0)


VARIANTS: dict[str, type[MLP] | type[NeuMF]] = {"mlp": MLP, "neumf": NeuMF}


def adam(
    lr_embedding: Float[Array, ""], lr_network: Float[Array, ""], weight_decay: Float[Array, ""]
) -> optax.GradientTransformation:
    """Adam of the pair `(private, table)`: the network at its own step size, and with an L2 penalty
    whose gradient goes through the moments (coupled, as in the released programs)."""
    rules = {
        "vectors": optax.adam(lr_embedding),
        "network": optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr_network)),
    }
    return optax.partition(rules, ({"user": "vectors", "network": "network"}, "vectors"))

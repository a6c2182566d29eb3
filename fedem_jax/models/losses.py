"""Binary cross-entropy of a logit, in the stable form and in the form of the released programs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def logit_bce(logit: Float[Array, "*n"], label: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """-y log s(z) - (1 - y) log(1 - s(z)), stable, for labels 0 and 1; gradient s(z) - y."""
    return jax.nn.softplus(jnp.where(label > 0, -logit, logit))


@jax.custom_vjp
def probability_bce(logit: Float[Array, "*n"], label: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The loss as the released programs apply it: to the probability rounded to float32.

    With p = s(z): the logarithms are cut off at -100, and the gradient with respect to z is
    (p - y) s / max(s, 1e-12), s = p (1 - p), which vanishes at saturation. Labels are 0 or 1.
    """
    return _forward(logit, label)[0]


def _forward(logit, label):
    p = jax.nn.sigmoid(logit)
    likelihood = jnp.where(label > 0, p, 1 - p)
    return -jnp.maximum(jnp.log(likelihood), -100.0), (p, label)


def _backward(residual, cotangent):
    p, label = residual
    s = p * (1 - p)
    return cotangent * (p - label) * (s / jnp.maximum(s, 1e-12)), jnp.zeros_like(label)


probability_bce.defvjp(_forward, _backward)

LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "logit": logit_bce,
    "probability": probability_bce,
}

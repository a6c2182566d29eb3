"""Losses of logits: binary cross-entropy, stable or as in the released programs; BPR; softmax."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fedem_jax.models.names import PAIRED_AT_ONCE


def logit_bce(logit: Float[Array, "*n"], label: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """-y log s(z) - (1 - y) log(1 - s(z)) in a stable form, for labels y of 0 and 1.

    s is the sigmoid, and the gradient with respect to the logit z is s(z) - y.
    """
    return jax.nn.softplus(jnp.where(label > 0, -logit, logit))


@jax.custom_vjp
def probability_bce(logit: Float[Array, "*n"], label: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The loss of the released programs, for labels y of 0 and 1.

    It takes the logarithm of p = sigmoid(z) in float32, and cuts it off at -100. The gradient with
    respect to z is (p - y) s / max(s, 1e-12) with s = p (1 - p). It vanishes at saturation.
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


BCE: dict[str, Callable[[Array, Array], Array]] = {
    "logit": logit_bce,
    "probability": probability_bce,
}
"""Forms of the cross-entropy of a sample."""


@jax.custom_vjp
def bpr_loss(
    logit: Float[Array, " B"], label: Float[Array, " B"], weight: Float[Array, " B"]
) -> Float[Array, ""]:
    """-log s(z_p - z_n), mean over all pairs of a positive p and a negative n of a batch.

    That is BPR-Opt without its regulariser (Rendle, Freudenthaler, Gantner, Schmidt-Thieme, UAI
    2009, Section 4.1), s the sigmoid. It is 0 without a positive or without a negative.

    Args:
        logit: z.
        label: 1 for a positive, 0 for a negative.
        weight: how many samples each entry stands for; 0: none. A pair counts their product.
    """
    return _bpr(logit, label, weight)[0]


def _bpr(logit, label, weight):
    """Loss and its slope by the logit. A few positives are paired at a time, and only as many as
    there are: P B pairs, and not B B."""
    positive, negative = jnp.where(label > 0, weight, 0.0), jnp.where(label > 0, 0.0, weight)
    first = jnp.argsort(positive <= 0, stable=True)  # places of the positives, then the others
    first = jnp.pad(first, (0, PAIRED_AT_ONCE), constant_values=len(logit))

    def some(number, carry):
        loss, slope = carry
        at = lax.dynamic_slice_in_dim(first, number * PAIRED_AT_ONCE, PAIRED_AT_ONCE)
        own, count = (each.at[at].get(mode="fill", fill_value=0.0) for each in (logit, positive))
        gap, pairs = logit[None, :] - own[:, None], count[:, None] * negative[None, :]
        small = jnp.exp(-jnp.abs(gap))
        wrong = pairs * jnp.where(gap > 0, 1.0, small) / (1 + small)  # s(z_n - z_p)
        loss = loss + jnp.sum(pairs * (jnp.maximum(gap, 0.0) + jnp.log1p(small)))
        slope = (slope + wrong.sum(axis=0)).at[at].add(-wrong.sum(axis=1), mode="drop")
        return loss, slope

    times = -(-jnp.sum(positive > 0) // PAIRED_AT_ONCE)
    loss, slope = lax.fori_loop(0, times, some, (jnp.float32(0), jnp.zeros_like(logit)))
    total = jnp.maximum(positive.sum() * negative.sum(), 1.0)
    return loss / total, slope / total


def _backward_bpr(slope, cotangent):
    return cotangent * slope, jnp.zeros_like(slope), jnp.zeros_like(slope)


bpr_loss.defvjp(_bpr, _backward_bpr)


def softmax_loss(
    logit: Float[Array, " B"], label: Float[Array, " B"], weight: Float[Array, " B"]
) -> Float[Array, ""]:
    """Minus the log of the softmax of a positive among all negatives, mean over the positives:

        -log( e^z_p / (e^z_p + sum_n e^z_n) )

    It is 0 without a positive or without a negative.

    Args:
        logit: z.
        label: 1 for a positive, 0 for a negative.
        weight: how many samples each entry stands for; 0: none.
    """
    negative, positive = (label <= 0) & (weight > 0), jnp.where(label > 0, weight, 0.0)
    weighed = logit + jnp.log(jnp.where(negative, weight, 1.0))
    others = jax.nn.logsumexp(jnp.where(negative, weighed, -1e30))
    each = jax.nn.softplus(others - logit)
    return jnp.sum(positive * each) / jnp.maximum(positive.sum(), 1.0)

"""EASE (Steck, WWW 2019): every item is predicted from the others by ridge regression.

    the server:  P = (X' X + l2 I)^-1,   B = I - P diag(1 / diag(P))                    (Eq. 8)
    score of client u:  x_u B

The minimum of |X - X B|^2 + l2 |B|^2 under diag(B) = 0, in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.config.references import EASE
from fedem_jax.core.algorithm import Algorithm
from fedem_jax.core.layout import Layout
from fedem_jax.core.linalg import inverse
from fedem_jax.methods.closed_form import item_weights


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    l2: Float[Array, ""]
    """L2 penalty of the weights, lambda in the paper."""


def ease(config: EASE, layout: Layout) -> Algorithm:
    """EASE; the arguments are those of `local_only`."""
    return item_weights(config, layout, Hyper, weights, copies=6)


def weights(both: Float[Array, "I I"], hyper: Hyper) -> Float[Array, "I I"]:
    """B, for X' X."""
    diagonal = jnp.eye(len(both), dtype=bool)
    precision = inverse(jnp.where(diagonal, both + hyper.l2, both))
    return jnp.where(diagonal, 0.0, -precision / jnp.diagonal(precision)[None, :])

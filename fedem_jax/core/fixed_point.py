"""Numbers as integers modulo 2^32: their sums have no rounding, in any order."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FRACTION_BITS = 20
"""Binary digits after the point: steps of about 1e-6. Sums from -2048 to 2048 are held."""


def to_fixed_point(values: Float[Array, "*n"]) -> Int[Array, "*n"]:
    """The nearest multiples of 2^-20, as integers. What is beyond the range becomes its end."""
    return jnp.round(values * 2.0**FRACTION_BITS).astype(jnp.int32)


def from_fixed_point(values: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """The numbers that these integers stand for."""
    return values.astype(jnp.float32) * 2.0**-FRACTION_BITS

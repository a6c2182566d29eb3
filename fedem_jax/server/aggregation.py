"""The server's step: weights of the clients for each other, and the tables made with them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sample_shares(samples: Int[Array, " A"]) -> Float[Array, " A"]:
    """p_v = n_v / sum n, of positives and negatives trained on (FedAvg's weights)."""
    counts = samples.astype(jnp.float32)
    return counts / counts.sum()


def project_to_simplex(points: Float[Array, "A A2"]) -> Float[Array, "A A2"]:
    """Nearest point of {w >= 0, sum w = 1} to each row, by sorting.

    Solves min ||w||^2 - 2 v.w over the simplex, for which the released program calls a solver:
    w = max(v - t, 0), with t such that the kept entries sum to 1.
    """
    falling = -jnp.sort(-points, axis=1)
    rank = jnp.arange(1, points.shape[1] + 1)
    surplus = (jnp.cumsum(falling, axis=1) - 1) / rank[None, :]
    kept = jnp.sum(falling > surplus, axis=1, keepdims=True)
    level = jnp.take_along_axis(surplus, kept - 1, axis=1)
    return jnp.maximum(points - level, 0.0)


def normalised(weights: Float[Array, "A A2"]) -> Float[Array, "A A2"]:
    """Entries below 1e-20 become 0 and rows sum to 1, as in the released program."""
    weights = jnp.where(jnp.abs(weights) < 1e-20, 0.0, weights)
    return weights / weights.sum(axis=1, keepdims=True)


def aggregation_weights(
    kind: str,
    shares: Float[Array, " A"],
    similarity: Float[Array, "A A"] | None,
    alpha: Float[Array, ""] | float,
) -> Float[Array, "R A"]:
    """Weights W_uv >= 0 of client v's table in the table for client u; rows sum to 1.

    `avg`: the shares p, one row for all (R = 1); `sim`: the similarity s_u; `both`: the
    projection of p + alpha s_u onto the simplex (FedEM, released program).
    """
    if similarity is None:
        return normalised(shares[None, :])
    if kind == "sim":
        return normalised(similarity)
    return normalised(project_to_simplex(shares[None, :] + alpha * similarity))


def aggregate(weights: Float[Array, "R A"], tables: Float[Array, "A I D"]) -> Float[Array, "R I D"]:
    """G_u = sum_v W_uv Q_v."""
    return jnp.einsum("ra,aid->rid", weights, tables)


def mean_of(parameters: Any, samples: Int[Array, " A"]) -> Any:
    """sum_v p_v theta_v, by sample shares, of arrays [A ...], such as adapters that are sent."""
    shares = sample_shares(samples)
    return jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, 1), parameters)

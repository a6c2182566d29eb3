"""How alike the aggregated clients' item tables are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.core.linalg import eigensystem


def principal_axes(tables: Float[Array, "A I D"]) -> Float[Array, "A D"]:
    """First principal axis v_1 of each table's rows, a unit vector of undetermined sign.

    From the D x D covariance of the centred table: a small eigenproblem in place of the released
    program's decomposition of the I x D table.
    """
    centred = tables - tables.mean(axis=1, keepdims=True)
    covariance = jnp.einsum("aid,aie->ade", centred, centred)

    _, vectors = jax.vmap(eigensystem)(covariance)
    return vectors[..., -1]


def principal_scores(
    tables: Float[Array, "A I D"], axes: Float[Array, "A D"]
) -> Float[Array, "A I"]:
    """Signature of each client: x_u = (Q_u - mean of its rows) v_1."""
    centred = tables - tables.mean(axis=1, keepdims=True)
    return jnp.einsum("aid,ad->ai", centred, axes)


def l2_similarity(scores: Float[Array, "A I"]) -> Float[Array, "A A"]:
    """s_uv = 1 / (1 + ||x_u - x_v||), in (0, 1]."""
    squares = jnp.sum(scores**2, axis=1)
    gap = squares[:, None] + squares[None, :] - 2 * scores @ scores.T
    gap = jnp.where(jnp.eye(len(scores), dtype=bool), 0.0, gap)  # lost in rounding otherwise
    return 1 / (1 + jnp.sqrt(jnp.maximum(gap, 0.0)))


def cosine_similarity(scores: Float[Array, "A I"]) -> Float[Array, "A A"]:
    """s_uv = max(0, cosine of x_u and x_v); 0 where a signature is zero."""
    length = jnp.linalg.norm(scores, axis=1, keepdims=True)
    unit = scores / jnp.where(length > 0, length, 1.0)
    return jnp.maximum(unit @ unit.T, 0.0)


def saturate(similarity: Float[Array, "A A2"]) -> Float[Array, "A A2"]:
    """Entries above 0.9 become 1, as in the released program; so the diagonal is 1."""
    return jnp.where(similarity > 0.9, 1.0, similarity)


SIMILARITIES = {"l2": l2_similarity, "cos": cosine_similarity}

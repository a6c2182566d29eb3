"""Small dense problems, one for each client, that may be solved on several CPU devices at once.

A batch of LAPACK calls deadlocks there (jaxlib 0.10): every call waits for threads of one pool that
the other calls hold.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def canonical_sign(vectors: Float[Array, "A n"]) -> Float[Array, " A"]:
    """+1 or -1 for each vector, such that its largest component, in absolute value, becomes
    positive: an eigenproblem leaves the direction open."""
    largest = jnp.argmax(jnp.abs(vectors), axis=1)
    return jnp.sign(jnp.take_along_axis(vectors, largest[:, None], axis=1)[:, 0])


@jax.custom_batching.custom_vmap
def eigensystem(
    matrix: Float[Array, "D D"],
) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Eigenvalues of a symmetric matrix, in rising order, and its eigenvectors, as columns."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@eigensystem.def_vmap
def _(_, batched, matrices):
    """One by one on a CPU."""

    def one_by_one(matrices):
        return lax.map(eigensystem, matrices)

    def together(matrices):
        return tuple(jnp.linalg.eigh(matrices))

    return lax.platform_dependent(matrices, cpu=one_by_one, default=together), (True, True)


@jax.custom_batching.sequential_vmap
def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse of a symmetric positive definite matrix, by its factor L: A^-1 = L^-T L^-1.

    It may be large. So a batch of them is inverted one by one. If the matrix is not positive
    definite in float32, the result is NaN.
    """
    factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
    half = lax.linalg.triangular_solve(
        factor, jnp.eye(len(matrix), dtype=matrix.dtype), left_side=True, lower=True
    )
    return half.T @ half


def solution(matrix: Float[Array, "D D"], right: Float[Array, " D"]) -> Float[Array, " D"]:
    """x with A x = b, for symmetric positive definite A: elimination, which then needs no pivots,
    in plain operations, which may be batched."""

    def eliminate(k, system):
        row = system[k] / system[k, k]
        return (system - system[:, k, None] * row[None, :]).at[k].set(row)

    system = jnp.concatenate([matrix, right[:, None]], axis=1)
    return lax.fori_loop(0, len(matrix), eliminate, system)[:, -1]

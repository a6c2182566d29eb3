"""How far the subspaces of two clients' items agree, as FedCA has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.core.linalg import eigensystem


def complementarity(directions: Float[Array, "A k D"], matching: str) -> Float[Array, "A A"]:
    """c_uv = cos(mean of k angles), in [-1, 1], 1 on the diagonal.

    `greedy`: the angle of the pair of directions, one of each client, that has the largest cosine.
    The next pair is found among those left, and so on. Signs count (released program). `angles`:
    the principal angles between the two subspaces.
    """
    cosines = jnp.einsum("akd,bld->abkl", directions, directions)
    matched = greedily_matched(cosines) if matching == "greedy" else singular_values(cosines)
    agreement = jnp.cos(jnp.arccos(jnp.clip(matched, -1, 1)).mean(axis=-1))
    return jnp.where(jnp.eye(len(directions), dtype=bool), 1.0, agreement)


def greedily_matched(cosines: Float[Array, "*n k k2"]) -> Float[Array, "*n k"]:
    """The largest entry of each matrix, then the largest without its row and column, and so on."""
    size, matched = cosines.shape[-1], []
    for _ in range(size):
        flat = cosines.reshape(*cosines.shape[:-2], -1)
        row, column = jnp.divmod(jnp.argmax(flat, axis=-1), size)
        matched.append(flat.max(axis=-1))
        row, column = (jax.nn.one_hot(place, size, dtype=bool) for place in (row, column))
        cosines = jnp.where(row[..., :, None] | column[..., None, :], -jnp.inf, cosines)
    return jnp.stack(matched, axis=-1)


def singular_values(matrices: Float[Array, "*n k k2"]) -> Float[Array, "*n k"]:
    """Singular values of each matrix, in rising order."""
    squares = jnp.einsum("...kl,...ml->...km", matrices, matrices)
    values, _ = jax.vmap(eigensystem)(squares.reshape(-1, *squares.shape[-2:]))
    return jnp.sqrt(jnp.maximum(values, 0)).reshape(squares.shape[:-1])

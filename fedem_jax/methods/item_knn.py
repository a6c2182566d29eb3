"""Item-based nearest neighbours (Sarwar et al., WWW 2001), with shrinkage.

    the server:  s_ij = n_ij / (sqrt(n_i n_j) + shrinkage),   n_ij: clients with both items
                 N_i = the k items with the largest s_ij, i itself left out
    score of client u for item i:  sum of s_ij over its items j in N_i

Without shrinkage, s_ij is the cosine of two columns of X. An item that no client has is similar to
none. Among equal similarities the item with the lower number is the neighbour. The paper predicts
x_ui by the score over the sum of s_ij in N_i. The loss that a round reports compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fedem_jax.config.references import ItemKNN
from fedem_jax.core.algorithm import Algorithm
from fedem_jax.core.layout import Layout
from fedem_jax.methods.closed_form import item_weights


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    shrinkage: Float[Array, ""]
    """Added to the denominator of the cosine, in clients."""


def item_knn(config: ItemKNN, layout: Layout) -> Algorithm:
    """Item-based nearest neighbours; the arguments are those of `local_only`."""
    count = min(config.neighbours, layout.num_items)

    def solve(both: Float[Array, "I I"], hyper: Hyper) -> Float[Array, "I I"]:
        return of_neighbours(similarities(both, hyper.shrinkage), count)

    return item_weights(config, layout, Hyper, solve, copies=5, predicted=average)


def of_neighbours(alike: Float[Array, "I I"], count: int) -> Float[Array, "I I"]:
    """s_ij of the `count` neighbours j of each item i, at [j, i]; 0 elsewhere."""
    largest, nearest = lax.top_k(alike, count)
    item = jnp.arange(len(alike))[:, None]
    return jnp.zeros_like(alike).at[nearest, item].set(largest)


def average(x: Float[Array, "B I"], weights: Float[Array, "I I"]) -> Float[Array, "B I"]:
    """The mean of x over the neighbours of each item, weighted by similarity; 0 without any."""
    total = weights.sum(axis=0)
    return x @ weights / jnp.where(total > 0, total, 1.0)[None, :]


def similarities(both: Float[Array, "I I"], shrinkage: Float[Array, ""]) -> Float[Array, "I I"]:
    """s_ij from X' X; 0 for an item with itself."""
    each = jnp.diagonal(both)
    scale = jnp.sqrt(each[:, None] * each[None, :]) + shrinkage
    never = (both == 0) | jnp.eye(len(both), dtype=bool)
    return jnp.where(never, 0.0, both / jnp.where(never, 1.0, scale))

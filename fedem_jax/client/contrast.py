"""Supervised contrast (Khosla et al., NeurIPS 2020) of the items' clusters, as CoFedRec's released
program has it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def supervised_contrast(
    table: Float[Array, "I D"],
    cluster: Int[Array, " I"],
    temperature: Float[Array, ""],
    base_temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """SupCon over all items: those of a cluster P attract each other and repel all others.

        mean_i of  -(tau / tau_0) sum_{j in P_i} log p_ij / (|P_i| + eps),   P_i = P(i) without i
        log p_ij = s_ij - log(sum_{a != i} exp s_ia + eps),   s_ij = (z_i . z_j - 1) / tau

    with z_i = q_i / |q_i| and eps = 1e-6; the 1 is the largest z_i . z_j, which the released
    program subtracts as a constant. An item without company counts as 0. Only `table` has a
    gradient.
    """
    return _contrast(table, cluster, temperature, base_temperature)[0]


def _contrast(table, cluster, temperature, base_temperature):
    """Loss and gradient. The sums over P_i come from the sums of the clusters. With
    k_ij = exp s_ij, off the diagonal, h_i = 1 / (|P_i| + eps), or 0 if P_i is empty, and
    u_i = h_i |P_i| / (sum_j k_ij + eps),

    I tau_0 dL/dz_i = sum_j k_ij (u_i + u_j) z_j - 2 h_i sum_{j in P_i} z_j
    """
    length = jnp.maximum(jnp.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    units, number = table / length, len(table)
    others = jnp.zeros(number).at[cluster].add(1.0)[cluster] - 1
    company = jnp.zeros_like(units).at[cluster].add(units)[cluster] - units
    # what is left as the company of an item that has none is rounding
    mean_over = jnp.where(others > 0, 1 / (others + EPSILON), 0.0)

    total, pulled = crowd(units, temperature)
    total = total + EPSILON
    attraction = jnp.sum(units * company, axis=1) - others
    loss = mean_over * (temperature * others * jnp.log(total) - attraction)

    slope = pulled(mean_over * others / total) - 2 * mean_over[:, None] * company
    slope = slope - units * jnp.sum(units * slope, axis=1, keepdims=True)
    scale = 1 / (number * base_temperature)
    return scale * loss.sum(), scale * slope / length


def crowd(
    units: Float[Array, "I D"], temperature: Float[Array, ""]
) -> tuple[Float[Array, " I"], Callable[[Float[Array, " I"]], Float[Array, "I D"]]]:
    """sum_j k_ij, and the function of u that gives sum_j k_ij (u_i + u_j) z_j.

    k is symmetric: of its tiles, those on one side of the diagonal do for both.
    """
    number = len(units)
    count, side = tiling(number)

    def cut(rows):
        padding = [(0, count * side - number)] + [(0, 0)] * (rows.ndim - 1)
        return jnp.pad(rows, padding).reshape(count, side, *rows.shape[1:])

    def joined(tiles):
        return tiles.reshape(count * side, *tiles.shape[2:])[:number]

    z, present, pairs = cut(units), cut(jnp.ones(number)), np.triu_indices(count)
    same = jnp.eye(side, dtype=bool)

    def nearness(total, pair):
        i, j = pair
        near = jnp.exp((z[i] @ z[j].T - 1) / temperature)
        near = jnp.where((i == j) & same, 0.0, near)
        total = total.at[i].add(near @ present[j])
        return total.at[j].add((i < j) * (present[i] @ near)), near

    total, near = lax.scan(nearness, jnp.zeros((count, side)), pairs)

    def pulled(u):
        u = cut(u)

        def pull(sums, tile):
            (i, j), near = tile
            near = near * (u[i][:, None] + u[j][None, :])
            return sums.at[i].add(near @ z[j]).at[j].add((i < j) * (near.T @ z[i])), None

        return joined(lax.scan(pull, jnp.zeros_like(z), (pairs, near))[0])

    return joined(total), pulled


def tiling(num_items: int) -> tuple[int, int]:
    """Tiles along a side of a matrix of all items by all, and items along a side of a tile."""
    count = -(-num_items // WIDEST_TILE)
    return count, -(-num_items // count)


def contrast_scratch(num_items: int, dim: int) -> int:
    """Numbers that XLA keeps at once: table, both gradients, unit vectors and what is around them,
    [I D]; half of the nearness of all items to all."""
    count, side = tiling(num_items)
    return 8 * num_items * dim + count * (count + 1) // 2 * side**2


WIDEST_TILE = 256
"""Items along a side of a tile at most: such a tile stays in a core's cache."""


def _backward(slope, cotangent):
    return cotangent * slope, None, None, None


supervised_contrast.defvjp(_contrast, _backward)

EPSILON = 1e-6
"""Keeps logarithm and mean finite (released program)."""

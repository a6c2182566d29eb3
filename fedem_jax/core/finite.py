"""Numbers that ceased to be finite: whose they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedem_jax.core.algorithm import State
from fedem_jax.core.sparse_tables import is_sparse


def finite_rows(tree: Any, number: int) -> Bool[Array, " n"]:
    """Whether all of a client's numbers are finite, in arrays that have the axis of the clients, of
    length `number`, first. Integers always are."""

    sound = jnp.ones(number, bool)
    for leaf in map(jnp.asarray, jax.tree.leaves(tree)):
        if may_fail(leaf):
            sound &= all_finite(leaf, tuple(range(1, leaf.ndim)))
    return sound


def finite_state(state: State, number: int) -> Bool[Array, " C"]:
    """Whether all parameters of a client, and of the server, are finite. (Rows that a client keeps
    beside the server's table, and tables that are held as bits, are not looked at: they go into its
    scores.)"""
    parts = jax.tree.leaves(state.clients, is_leaf=is_sparse)
    clients = finite_rows([leaf for leaf in parts if not is_sparse(leaf)], number)
    for leaf in map(jnp.asarray, jax.tree.leaves(state.server)):
        if may_fail(leaf):
            clients &= all_finite(leaf, tuple(range(leaf.ndim)))
    return clients


def may_fail(leaf: Array) -> bool:
    """Whether an array holds anything but integers."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def all_finite(leaf: Float[Array, "*n"], axes: tuple[int, ...]) -> Bool[Array, "*m"]:
    """Whether all numbers along some axes are finite; by extremes alone, so that XLA makes no array
    as large as the tables."""
    return jnp.isfinite(leaf.max(axis=axes)) & jnp.isfinite(leaf.min(axis=axes))

"""Numbers that ceased to be finite: whose they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Num

from fedem_jax.base import State
from fedem_jax.own_rows import OwnRows


def finite_rows(tree: Any, number: int) -> Bool[Array, " n"]:
    """Whether all of a client's numbers are finite, in arrays that have the axis of the clients, of
    length `number`, first. Integers always are; item tables may be held as bits."""

    sound = jnp.ones(number, bool)
    for leaf in map(jnp.asarray, jax.tree.leaves(tree)):
        if may_fail(leaf):
            sound &= all_finite(leaf, tuple(range(1, leaf.ndim)))
    return sound


def finite_state(state: State, number: int) -> Bool[Array, " C"]:
    """Whether all parameters of a client, and of the server, are finite. (Rows that a client keeps
    beside the server's table are not looked at: they go into its scores.)"""
    parts = jax.tree.leaves(state.clients, is_leaf=lambda x: isinstance(x, OwnRows))
    clients = finite_rows([leaf for leaf in parts if not isinstance(leaf, OwnRows)], number)
    for leaf in map(jnp.asarray, jax.tree.leaves(state.server)):
        if may_fail(leaf):
            clients &= all_finite(leaf, tuple(range(leaf.ndim)))
    return clients


def may_fail(leaf: Array) -> bool:
    """Whether an array holds anything but integers."""
    return leaf.dtype == jnp.uint16 or jnp.issubdtype(leaf.dtype, jnp.floating)


def all_finite(leaf: Num[Array, "*n"], axes: tuple[int, ...]) -> Bool[Array, "*m"]:
    """Whether all numbers along some axes are finite; by extremes alone, so that XLA makes no array
    as large as the tables. The bits of bfloat16 are beyond those of infinity, or below its sign."""
    if leaf.dtype == jnp.uint16:
        highest = lax.bitcast_convert_type(leaf, jnp.int16).max(axis=axes)
        return (highest < 0x7F80) & (leaf.max(axis=axes) < 0xFF80)
    return jnp.isfinite(leaf.max(axis=axes)) & jnp.isfinite(leaf.min(axis=axes))

"""Numbers that ceased to be finite: whose they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from fedem_jax.base import State
from fedem_jax.own_rows import OwnRows
from fedem_jax.tables import exact


def finite_rows(tree: Any, number: int) -> Bool[Array, " n"]:
    """Whether all of a client's numbers are finite, in arrays that have the axis of the clients, of
    length `number`, first. Integers always are; item tables may be held as bits."""

    def one(leaf: Num[Array, "n *rest"]) -> Bool[Array, " n"]:
        return jnp.isfinite(values(leaf)).all(axis=tuple(range(1, leaf.ndim)))

    sound = jnp.ones(number, bool)
    for leaf in map(jnp.asarray, jax.tree.leaves(tree)):
        if may_fail(leaf):
            sound &= one(leaf)
    return sound


def finite_state(state: State, number: int) -> Bool[Array, " C"]:
    """Whether all parameters of a client, and of the server, are finite. (Rows that a client keeps
    beside the server's table are not looked at: they go into its scores.)"""
    parts = jax.tree.leaves(state.clients, is_leaf=lambda x: isinstance(x, OwnRows))
    clients = finite_rows([leaf for leaf in parts if not isinstance(leaf, OwnRows)], number)
    for leaf in map(jnp.asarray, jax.tree.leaves(state.server)):
        if may_fail(leaf):
            clients &= jnp.isfinite(values(leaf)).all()
    return clients


def may_fail(leaf: Array) -> bool:
    """Whether an array holds anything but integers."""
    return leaf.dtype == jnp.uint16 or jnp.issubdtype(leaf.dtype, jnp.floating)


def values(leaf: Array) -> Array:
    """The numbers that an array stands for."""
    return exact(leaf) if leaf.dtype == jnp.uint16 else leaf

"""Work over blocks of clients, and over the stacked trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from fedem_jax.core.layout import Layout, SizeClass

BLOCK = "block"
"""Name of the mapped axis inside a block of clients."""
TRIAL = "trial"
"""Name of the mapped axis over stacked trials of a sweep; a run by itself has none."""

Carry = TypeVar("Carry")


def for_each_block(
    work: Callable[[SizeClass, Int[Array, " B"], Carry], Carry],
    carry: Carry,
    chosen: Bool[Array, " shard"],
    classes: Sequence[SizeClass],
    members: Sequence[Int[Array, "1 _"]],
    layout: Layout,
    most: int | None = None,
) -> Carry:
    """Fold `work` over blocks of the chosen clients of one device. No empty block runs.

    Args:
        work: `(size_class, places, carry) -> carry`. Places count from the device's first one.
            Those that no client fills hold `shard`, one past the last, so that reads are clipped
            and writes dropped.
        carry: what the first block starts from.
        chosen: which places of this device.
        classes: size classes.
        members: those of each class on this device.
        layout: for the width of blocks.
        most: most clients that are ever chosen, if it is known; no block is wider.
    """
    padded = jnp.concatenate([chosen, jnp.zeros(1, bool)])
    for size_class, (candidates,) in zip(classes, members, strict=True):
        wanted = padded[candidates]
        places = candidates.shape[0]
        width = layout.width(places if most is None else min(most, places))
        room = -(-candidates.shape[0] // width) * width
        position = jnp.where(wanted, jnp.cumsum(wanted) - 1, room)
        queue = jnp.full(room, layout.shard, jnp.int32).at[position].set(candidates, mode="drop")

        def block(b, carry, queue=queue, size_class=size_class, width=width):
            places = lax.dynamic_slice_in_dim(queue, b * width, width)
            return work(size_class, places, carry)

        carry = lax.fori_loop(0, over_trials(-(-wanted.sum() // width)), block, carry)
    return carry


def stacked() -> int:
    """Trials that are worked on side by side: 1 in a run by itself."""
    try:
        return lax.axis_size(TRIAL)
    except NameError:  # there is no such axis
        return 1


def alone() -> bool:
    """Whether a client is worked on with no other beside it."""
    return lax.axis_size(BLOCK) * stacked() == 1


def loop_bound(count: Int[Array, ""]) -> Int[Array, ""]:
    """The largest of a number over the clients of a block and the stacked trials."""
    return over_trials(lax.pmax(count, BLOCK))


def over_trials(most: Int[Array, ""]) -> Int[Array, ""]:
    """The largest of a number over the stacked trials: the bound of a loop that all go through
    together. As 0 or 1 it says whether any of them takes a branch.

    With a bound of each trial's own, the loop would copy all that it carries in every pass, tables
    of all clients included. The copies would be for the trials that have finished. All trials would
    go through a branch of one trial. So whatever comes after a trial's own end must change nothing.
    """
    return lax.pmax(most, TRIAL) if stacked() > 1 else most

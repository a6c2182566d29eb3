"""Several processes that run one program together, each on devices of its own.

Every process calls the same functions in the same order (JAX, "multi-controller"). Each holds the
clients of its own devices alone. What a process must know of the others passes through here.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from fedem_jax.errors import PeerLost, UserError

LOST = ("Gloo", "NCCL", "coordination service", "heartbeat", "Socket closed", "Connection reset")
"""Words of the errors that follow from the end of another process."""


def several() -> bool:
    """Whether more than one process takes part."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes files and shows the run."""
    return jax.process_index() == 0


def meet() -> None:
    """Wait until all processes are here."""
    largest(0)


def from_first(answer: bool) -> bool:
    """The answer of the first process."""
    return bool(largest(answer and is_first()))


def reason_of_first(reason: str) -> str:
    """The reason that the first process gives; elsewhere only that it gives one."""
    there = from_first(bool(reason))
    return reason or ("the first process asked for it" if there else "")


def largest(value: int) -> int:
    """The largest of the values that all processes give. It waits for all of them.

    Args:
        value: below 2^31.
    """
    if not several():
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def smallest(value: int) -> int:
    """The smallest of those values."""
    return -largest(-value)


def own_device(devices: Iterable[Any]) -> Any:
    """The first of some devices that is of this process."""
    return next(device for device in devices if device.process_index == jax.process_index())


@cache
def processes_here() -> int:
    """Processes that run on the host of this one."""
    if not several():
        return 1
    host = np.int32(zlib.crc32(socket.gethostname().encode()) // 2)
    return int((multihost_utils.process_allgather(host) == host).sum())


@contextmanager
def lost_processes(remedy: str) -> Iterator[None]:
    """Turn the error that follows from the end of another process into a sentence.

    Args:
        remedy: end of the message, what the user can do.

    Raises:
        PeerLost: another process has ended, or cannot be reached.
    """
    try:
        yield
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not (several() and any(word in str(error) for word in LOST)):
            raise
        raise PeerLost(
            f"processes: another one has ended or cannot be reached; {remedy}."
        ) from None


def check_same(text: str, what: str, remedy: str) -> None:
    """Refuse processes that do not agree.

    Args:
        text: what has to be the same in all of them.
        what: its name, for the message.
        remedy: end of the message, what the user can do.

    Raises:
        UserError: another process has another text.
    """
    number = zlib.crc32(text.encode()) // 2
    if largest(number) != smallest(number):
        raise UserError(f"processes: they have {what}; {remedy}.")


def on_all(values: Any, sharding: Any) -> Any:
    """Arrays on the devices of all processes.

    Args:
        values: a tree of arrays: on the host, where every process has them whole or as
            `LocalRows`; or already on the devices.
        sharding: how they are laid out: one for all, or a tree of them whose leaves may stand for
            branches of `values`.
    """
    if not several():
        return jax.device_put(values, sharding, may_alias=False)

    def put(where: Sharding, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return jax.device_put(leaf, where)
        return jax.make_array_from_callback(leaf.shape, where, lambda index: np.array(leaf[index]))

    return jax.tree.map(
        lambda where, branch: jax.tree.map(partial(put, where), branch), sharding, values
    )


def on_host(values: Any) -> Any:
    """Arrays of all processes, whole, on the host of each."""

    def whole(leaf: Any) -> np.ndarray:
        if is_divided(leaf):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, values)


def copied_to_host(array: Any) -> Any:
    """A copy on the host: the whole array, or the rows of this process. What is on the host has a
    copy of its own kind."""
    if isinstance(array, jax.Array) and is_divided(array):
        return LocalRows(array)
    return np.array(array) if isinstance(array, jax.Array) else array.copy()


def is_divided(leaf: Any) -> bool:
    """Whether other processes have a part of an array."""
    one = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    return not (one or leaf.is_fully_replicated)


class LocalRows:
    """The rows of an array that lie on the devices of this process, on its host."""

    def __init__(self, array: jax.Array):
        """Copy them from an array that is divided by its first axis."""
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        self.shape, self.dtype = array.shape, array.dtype
        self.first = shards[0].index[0].start or 0
        self.rows = np.concatenate([np.asarray(shard.data) for shard in shards])

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """The rows of a part of the whole array that lies on this process."""
        rows = slice(index[0].start - self.first, index[0].stop - self.first)
        return self.rows[rows, *index[1:]]

"""How programs are compiled for the devices at hand."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.core.layout import Layout

GRAPH_LOOPS: dict[str, bool | int | str] = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,COLLECTIVES,DYNAMIC_SLICE_FUSION,"
        "WHILE,CONDITIONAL"
    ),
    "xla_gpu_graph_min_graph_size": 1,
}
"""Options of XLA by which a CUDA graph holds whole loops."""


def compiled(
    program: Callable[..., Any], args: tuple, config: Config, layout: Layout, donate: tuple = ()
) -> Callable[..., Any]:
    """A program compiled for arguments of these shapes and shardings, in full float32.

    Args:
        program: what is traced.
        args: its arguments, or their shapes.
        config: says whether loops run as graphs (`gpu_loops`).
        layout: the devices.
        donate: numbers of the arguments whose memory the program may take over.
    """
    cuda = layout.device.platform in ("gpu", "cuda")
    options = GRAPH_LOOPS if cuda and config.gpu_loops == "graph" else None
    jitted = jax.jit(program, donate_argnums=donate, compiler_options=options)
    with jax.default_matmul_precision("highest"):
        return jitted.lower(*args).compile()


MOST_REMEMBERED = 32
"""Programs that a process keeps; the one that was used longest ago goes first."""
_remembered: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()


def remembered(key: Hashable, compile: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """The program of a key, which is compiled at its first use in this process.

    Args:
        key: all that the program depends on.
        compile: makes it.
    """
    if key not in _remembered:
        _remembered[key] = compile()
        if len(_remembered) > MOST_REMEMBERED:
            _remembered.popitem(last=False)
    _remembered.move_to_end(key)
    return _remembered[key]


def forget_programs() -> None:
    """Drop all programs that this process remembers."""
    _remembered.clear()


def identity(tree: Any) -> Hashable:
    """A key of a tree by its contents: equal for equal arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(map(_contents, leaves))


def kinds(tree: Any) -> Hashable:
    """A key of a tree of arrays by their shapes, types and shardings."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)


def _contents(leaf: Any) -> Hashable:
    if not isinstance(leaf, np.ndarray | jax.Array):
        return leaf
    array = np.ascontiguousarray(leaf)
    return array.shape, array.dtype.str, hashlib.sha256(array.tobytes()).digest()

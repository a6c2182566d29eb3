"""How programs are compiled for the devices at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

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
    cuda = layout.mesh.devices.flat[0].platform in ("gpu", "cuda")
    options = GRAPH_LOOPS if cuda and config.gpu_loops == "graph" else None
    jitted = jax.jit(program, donate_argnums=donate, compiler_options=options)
    with jax.default_matmul_precision("highest"):
        return jitted.lower(*args).compile()

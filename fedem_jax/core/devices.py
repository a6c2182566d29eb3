"""Devices: those that a run takes, and such that are not at hand but planned with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax


def all_devices() -> list[Any]:
    """JAX devices that a run takes if nobody names them."""
    return jax.devices()


@dataclass(frozen=True)
class AbsentDevice:
    """A device to plan with, on which nothing is computed. Only its number, kind and memory are
    known."""

    id: int
    platform: str
    """As JAX calls it: `cpu`, `gpu`, ..."""
    memory: int
    """Bytes that it offers."""
    process_index: int = 0
    """The process that it belongs to, as if it were of this one."""

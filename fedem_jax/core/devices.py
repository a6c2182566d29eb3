"""Devices that are not at hand: runs are planned on them, and nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AbsentDevice:
    """A device to plan with. Only its number, kind and memory are known."""

    id: int
    platform: str
    """As JAX calls it: `cpu`, `gpu`, ..."""
    memory: int
    """Bytes that it offers."""
    process_index: int = 0
    """The process that it belongs to, as if it were of this one."""

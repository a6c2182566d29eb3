"""Modules of a higher layer, found by name. Results show themselves by them."""

from __future__ import annotations

import importlib
from typing import Any


def higher(name: str) -> Any:
    """A module that shows what a lower layer makes, so that the lower one does not import it.

    Args:
        name: of the module, inside the package.
    """
    return importlib.import_module(f"fedem_jax.{name}")

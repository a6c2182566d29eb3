"""Losses and backbones by name: those of the package, and those that others register.

`config.plugins` adds to both. Nothing here imports JAX, since settings are checked without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Part = str | Callable[..., Any]
"""A loss or a backbone of others, or `module:name` of one in `fedem_jax.models`."""

LOSSES: dict[str, Part] = {
    "bce": "losses:BCE",
    "bpr": "losses:bpr_loss",
    "softmax": "losses:softmax_loss",
}
"""Losses of local training: functions `(logit [B], label [B], weight [B]) -> loss`. Only `bce` is
another: a sum over the samples, which has two forms."""
PAIRED_AT_ONCE = 32
"""Positives that `bpr` pairs with a batch at a time."""
BACKBONES: dict[str, Part] = {"mf": "mf:MF", "ncf": "ncf:NCF"}
"""Backbones of a client: `dim -> flax module`."""


def loaded(part: Part) -> Any:
    """A loss or a backbone itself. This imports its module, and JAX."""
    if not isinstance(part, str):
        return part
    module, _, name = part.partition(":")
    return getattr(importlib.import_module(f"fedem_jax.models.{module}"), name)

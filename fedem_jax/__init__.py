"""Federated recommendation, simulated: all clients stacked, one compiled program per round.

import fedem_jax as fj

result = fj.run(fj.preset(dataset="synthetic", rounds=20))
print(result.summary["headline"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedem_jax.auditing import audit
    from fedem_jax.config import Config
    from fedem_jax.data.federation import Federation
    from fedem_jax.data.sources import load
    from fedem_jax.errors import UserError
    from fedem_jax.methods import METHODS
    from fedem_jax.presets import preset
    from fedem_jax.protocol import Protocol
    from fedem_jax.ranking import evaluate
    from fedem_jax.sweeping import SweepResult, sweep
    from fedem_jax.train import Result, Trial, run
    from fedem_jax.verdict import Audit

__version__ = "0.1.0"

__all__ = [
    "METHODS", "Audit", "Config", "Federation", "Protocol", "Result", "SweepResult", "Trial",
    "UserError", "audit", "evaluate", "load", "preset", "run", "sweep",
]  # fmt: skip

_HOME = {
    "METHODS": "methods",
    "Audit": "verdict",
    "audit": "auditing",
    "Config": "config",
    "Federation": "data.federation",
    "Protocol": "protocol",
    "preset": "presets",
    "Result": "train",
    "SweepResult": "sweeping",
    "sweep": "sweeping",
    "Trial": "train",
    "UserError": "errors",
    "evaluate": "ranking",
    "load": "data.sources",
    "run": "train",
}


def __getattr__(name: str):
    """Import a name when it is asked for, so that `fedem --help` does not wait for JAX."""
    if name not in _HOME:
        raise AttributeError(f"module 'fedem_jax' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"fedem_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value

"""Federated recommendation, simulated: all clients stacked, one compiled program per round.

import fedem_jax as fj

result = fj.run(fj.preset(dataset="synthetic", rounds=20))
print(result.summary["headline"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fedem_jax.version import __version__

if TYPE_CHECKING:
    from fedem_jax.analysis.audit import audit
    from fedem_jax.analysis.bottleneck import Bottleneck, bottleneck
    from fedem_jax.analysis.cost import Plan, plan
    from fedem_jax.analysis.verdict import Audit
    from fedem_jax.comparisons.compare import ComparisonResult, compare
    from fedem_jax.config.base import Config
    from fedem_jax.config.plugins import register_backbone, register_loss
    from fedem_jax.config.presets import preset
    from fedem_jax.config.protocol import Protocol
    from fedem_jax.config.registry import METHODS, register
    from fedem_jax.data.federation import Federation
    from fedem_jax.data.memory import federation
    from fedem_jax.data.prepared import read_federation, write_federation
    from fedem_jax.data.sources import load
    from fedem_jax.errors import UserError
    from fedem_jax.evaluation.ranking import evaluate
    from fedem_jax.runs.observers import Observer
    from fedem_jax.runs.opened import open_run
    from fedem_jax.runs.result import Result
    from fedem_jax.runs.simulation import Simulation
    from fedem_jax.runs.train import run
    from fedem_jax.sweeps.run import sweep
    from fedem_jax.sweeps.runner import Watcher
    from fedem_jax.sweeps.sweep_result import SweepResult
    from fedem_jax.watching.mlflow import MLflow
    from fedem_jax.watching.tensorboard import TensorBoard
    from fedem_jax.watching.wandb import WandB

__all__ = [
    "METHODS",
    "Audit",
    "Bottleneck",
    "ComparisonResult",
    "Config",
    "Federation",
    "MLflow",
    "Observer",
    "Plan",
    "Protocol",
    "Result",
    "Simulation",
    "SweepResult",
    "TensorBoard",
    "UserError",
    "WandB",
    "Watcher",
    "__version__",
    "audit",
    "bottleneck",
    "compare",
    "evaluate",
    "federation",
    "load",
    "open_run",
    "plan",
    "preset",
    "read_federation",
    "register",
    "register_backbone",
    "register_loss",
    "run",
    "sweep",
    "write_federation",
]  # fmt: skip

_HOME = {
    "METHODS": "config.registry",
    "Audit": "analysis.verdict",
    "audit": "analysis.audit",
    "Bottleneck": "analysis.bottleneck",
    "bottleneck": "analysis.bottleneck",
    "ComparisonResult": "comparisons.compare",
    "compare": "comparisons.compare",
    "Plan": "analysis.cost",
    "plan": "analysis.cost",
    "Config": "config.base",
    "Federation": "data.federation",
    "Protocol": "config.protocol",
    "preset": "config.presets",
    "register": "config.registry",
    "register_backbone": "config.plugins",
    "register_loss": "config.plugins",
    "Observer": "runs.observers",
    "Result": "runs.result",
    "open_run": "runs.opened",
    "SweepResult": "sweeps.sweep_result",
    "sweep": "sweeps.run",
    "Watcher": "sweeps.runner",
    "Simulation": "runs.simulation",
    "UserError": "errors",
    "federation": "data.memory",
    "evaluate": "evaluation.ranking",
    "load": "data.sources",
    "read_federation": "data.prepared",
    "write_federation": "data.prepared",
    "run": "runs.train",
    "MLflow": "watching.mlflow",
    "TensorBoard": "watching.tensorboard",
    "WandB": "watching.wandb",
}
"""Module of each name."""
_COMPUTES = ("audit", "bottleneck", "compare", "open_run", "plan", "run", "Simulation", "sweep")
"""Names that compute. All cores of the host are used from then on, and programs are cached."""


def __getattr__(name: str):
    """Import a name when it is asked for, so that `fedem --help` does not wait for JAX."""
    if name == "testing":
        return importlib.import_module("fedem_jax.testing")
    if name not in _HOME:
        raise AttributeError(f"module 'fedem_jax' has no attribute '{name}'")
    if name in _COMPUTES:
        importlib.import_module("fedem_jax.runs.host").prepare_jax()
    value = getattr(importlib.import_module(f"fedem_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

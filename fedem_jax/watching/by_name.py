"""The trackers by the names that `fedem train --log-to` knows, below a run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fedem_jax.runs.observers import Observer
from fedem_jax.watching.mlflow import MLflow
from fedem_jax.watching.tensorboard import TensorBoard
from fedem_jax.watching.wandb import WandB

TRACKERS: dict[str, Callable[[Path], Observer]] = {
    "tensorboard": lambda directory: TensorBoard(directory / "tensorboard"),
    "wandb": lambda directory: WandB(dir=directory),
    "mlflow": lambda directory: MLflow(directory / "mlflow"),
}
"""Makes each tracker for a run directory; it writes into the folder of its name there."""


def names_of(asked: Sequence[str], directory: Path, resume: bool) -> list[str]:
    """The trackers of a run, each once: those asked for, and of a resumed run those it has.

    Args:
        asked: names of `TRACKERS`.
        directory: of the run.
        resume: whether the run is resumed.
    """
    return [name for name in TRACKERS if name in asked or (resume and (directory / name).is_dir())]

"""Weights & Biases: settings, curves and result of a run, in a folder or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.runs.observers import Observer
from fedem_jax.watching.metrics import hyper_parameters, name_of, of_round, of_run, package

if TYPE_CHECKING:
    import pandas as pd


class WandB(Observer):
    """Writes a run for Weights & Biases. `wandb sync FOLDER` uploads it later.

    A resumed run is a run of its own there, with all rounds.
    """

    def __init__(
        self,
        project: str = "fedem_jax",
        mode: Literal["offline", "online", "disabled"] = "offline",
        dir: str | Path = ".",
        **more: Any,
    ):
        """
        Args:
            project: name of the project.
            mode: offline writes a folder alone; online sends the run to a server.
            dir: where the folder `wandb` is made.
            more: further arguments of `wandb.init`, such as `entity`, `name` or `tags`.

        Raises:
            UserError: wandb is not installed.
        """
        self._package = package("wandb", "wandb")
        self._dir = Path(dir)
        quiet = self._package.Settings(silent=True, console="off")
        self._arguments = {"project": project, "mode": mode, "settings": quiet, **more}
        self._run: Any = None
        self._ended = False

    def on_start(self, setting: Setting) -> None:
        """Begin a run with the settings."""
        self._dir.mkdir(parents=True, exist_ok=True)
        defaults = {"name": name_of(setting), "config": hyper_parameters(setting)}
        self._run = self._package.init(
            **(defaults | self._arguments), dir=str(self._dir), reinit="create_new"
        )

    def on_round(self, record: Record) -> None:
        """Write the numbers of a round."""
        self._run.log(of_round(record), step=record["round"])

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Write the result."""
        self._run.summary.update(of_run(summary))
        if "ended_early" in summary:
            self._run.summary["ended_early"] = summary["ended_early"]
        self._ended = True

    def on_close(self) -> None:
        """End the run: as failed if it has no result."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._ended else 1)

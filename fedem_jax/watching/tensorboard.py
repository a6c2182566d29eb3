"""TensorBoard: settings, curves and result of a run in an event file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedem_jax.evaluation.metrics import metrics_at
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.runs.observers import Observer
from fedem_jax.watching.metrics import (
    allowed,
    as_text,
    hyper_parameters,
    of_round,
    of_run,
    package,
)

if TYPE_CHECKING:
    import pandas as pd


class TensorBoard(Observer):
    """Writes a run for TensorBoard. `tensorboard --logdir FOLDER` shows it.

    Its tab HParams has the settings beside the metrics of the best validation round. The curves of
    a resumed run replace those of the run before.
    """

    def __init__(self, folder: str | Path):
        """
        Args:
            folder: where the events are written. Each run needs a folder of its own.

        Raises:
            UserError: tensorboardX is not installed.
        """
        self._package = package("tensorboardX", "tensorboard")
        self._folder = Path(folder)
        self._writer: Any = None
        self._ended: Any = None  # what says that the run has ended

    def on_start(self, setting: Setting) -> None:
        """Write the settings."""
        settings = {
            name: value if isinstance(value, bool | int | float) else as_text(value)
            for name, value in hyper_parameters(setting).items()
        }
        shown = metrics_at(setting["config"].top_k, ("val", "test", "test_full"))
        results = {f"best/{part}/{allowed(name)}": 0.0 for part, name in shown}
        # what the folder holds of an interrupted run is not shown from here on
        self._writer = self._package.SummaryWriter(str(self._folder), purge_step=0)
        columns, started, self._ended = self._package.summary.hparams(settings, results)
        for each in (columns, started):
            self._writer.file_writer.add_summary(each)
        self._writer.flush()

    def on_round(self, record: Record) -> None:
        """Write the numbers of a round."""
        self._write(of_round(record), record["round"])

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Write the result."""
        self._writer.file_writer.add_summary(self._ended)
        if "ended_early" in summary:
            self._writer.add_text("ended_early", summary["ended_early"], summary["rounds"])
        self._write(of_run(summary), summary["rounds"])

    def on_close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, values: dict[str, float], step: int) -> None:
        """Write numbers that can be seen at once."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

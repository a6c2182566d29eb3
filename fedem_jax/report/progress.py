"""Progress of a run in the terminal: a live bar or plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from fedem_jax.config.base import Config
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.report.run_tables import closing, opening
from fedem_jax.report.tables import written_files
from fedem_jax.report.terminal import Terminal, say
from fedem_jax.runs.names import CURVES, METRICS, PER_CLIENT, RHO_PICTURE, SUMMARY
from fedem_jax.runs.observers import Observer
from fedem_jax.units import in_seconds

if TYPE_CHECKING:
    import pandas as pd


def live_bar(console: Console, *columns: ProgressColumn, stays: bool = False) -> Bar:
    """A bar with a description, the field `values` and further columns, shown by terminals only.

    At its end it `stays`, or disappears.
    """
    return Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[values]}", markup=False),
        *columns,
        console=console,
        expand=True,
        transient=not stays,
        disable=not console.is_terminal,
    )


class Progress(Observer):
    """Shows a run as it goes; a context manager, so that the bar always ends.

    A terminal gets a live bar; a file or a pipe gets about ten plain lines.
    """

    def __init__(self, console: Console | None = None, directory: Path | None = None):
        """directory: folder of the run, named at the end with its files; None: nothing is named."""
        self._console = console or Terminal()
        self._directory = directory
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._rounds, self._k, self._files = 0, 10, [SUMMARY, METRICS, CURVES]
        self._first: tuple[int, float] | None = None  # round and time of the first record
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def on_start(self, setting: Setting) -> None:
        """Show the setting of the run. The bar says `compiling` until the first record."""
        config: Config = setting["config"]
        self._rounds, self._k = config.rounds, config.top_k
        if config.per_client:
            self._files.append(PER_CLIENT)
        self._console.print(opening(setting))
        if not self._console.is_terminal:
            self._console.print("compiling the first round ...")
            return
        self._bar = live_bar(self._console, TimeRemainingColumn(compact=True), stays=True)
        self._task = self._bar.add_task("compiling", total=self._rounds, values="")
        self._bar.start()

    def on_resume(self, records: Sequence[Record]) -> None:
        """Show how far the run had come."""
        if self._bar is not None:
            self._bar.update(self._task, completed=records[-1]["round"])

    def on_round(self, record: Record) -> None:
        """Show the newest round."""
        done, now = record["round"], time.monotonic()
        if "rho" in record and RHO_PICTURE not in self._files:
            self._files.append(RHO_PICTURE)
        if self._first is None:
            self._first = (done, now)
        first, begun = self._first
        speed = f"{in_seconds((now - begun) / (done - first))}/round" if done > first else ""
        hr, ndcg = f"hr@{self._k}", f"ndcg@{self._k}"
        values = (
            f"loss {record['loss']:.4f} val {metric_title(hr)} {record['val'][hr]:.3f} "
            f"{metric_title(ndcg)} {record['val'][ndcg]:.3f} "
            f"full {record['val_full'][hr]:.3f} {speed}"
        ).rstrip()
        label = f"{done:>{len(str(self._rounds))}}/{self._rounds}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=label, values=values)
        elif done >= self._next_line or done >= self._rounds:
            self._console.print(f"round {label}  {values}", soft_wrap=True)
            self._next_line = done + self._rounds / 10

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Show the result of the run."""
        self._stop()
        self._console.print(closing(summary))
        if self._directory is not None:
            self._console.print(written_files(self._directory, self._files), soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Show a sentence, above the bar if there is one."""
        say(self._console, sentence)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

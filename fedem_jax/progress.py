"""What a run shows in the terminal: an opening panel, a live bar, a closing table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.record import CURVES, METRICS, SUMMARY, Run, chance_level, ranking_metrics


class Progress:
    """Observer that shows a run as it goes; a context manager, so that the bar always ends.

    A terminal gets a live bar; a file or a pipe gets about ten plain lines.
    """

    def __init__(self, console: Console | None = None, directory: Path | None = None):
        """directory: where the run's files lie, to be named at the end; None: nothing is named."""
        self._console = console or Console(highlight=False)
        self._directory = directory
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._rounds = 0
        self._first: tuple[int, float] | None = None  # round and time of the first record
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def start(self, setting: dict[str, Any]) -> None:
        """Show what is about to run; the bar says that it compiles until the first record."""
        self._rounds = setting["config"].rounds
        self._console.print(_opening(setting))
        if not self._console.is_terminal:
            self._console.print("compiling the first round ...")
            return
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task("compiling", total=self._rounds, values="")
        self._bar.start()

    def record(self, record: dict[str, Any]) -> None:
        """Show the newest round."""
        done, now = record["round"], time.monotonic()
        if self._first is None:
            self._first = (done, now)
        speed = (
            ""
            if done == self._first[0]
            else _speed((now - self._first[1]) / (done - self._first[0]))
        )
        metrics = " ".join(
            f"{name.upper()} {record['val'][name]:.3f}" for name in ranking_metrics(record["val"])
        )
        values = f"loss {record['loss']:.4f} val {metrics} {speed}".rstrip()
        label = f"{done:>{len(str(self._rounds))}}/{self._rounds}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=label, values=values)
        elif done >= self._next_line or done >= self._rounds:
            self._console.print(f"round {label}  {values}", soft_wrap=True)
            self._next_line = done + self._rounds / 10

    def finish(self, summary: dict[str, Any]) -> None:
        """Show what came of the run."""
        self._stop()
        self._console.print(closing(summary))
        if self._directory is not None:
            names = f"{SUMMARY}, {METRICS}, {CURVES}"
            self._console.print(f"[bold]{self._directory}/[/bold] holds {names}", soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def closing(summary: dict[str, Any]) -> RenderableType:
    """The closing table of a run: its headline, its last round, and what to compare them with."""
    metrics = ranking_metrics(summary["headline"]["test"])
    table = Table(
        box=box.SIMPLE_HEAD, title=_title(summary), title_justify="left", title_style="bold",
        pad_edge=False,
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for name in ("round", *(f"{s}\n{m.upper()}" for s in ("val", "test") for m in metrics)):
        table.add_column(name, justify="right", vertical="bottom")

    def row(label: str, entry: dict[str, Any], style: str = "") -> None:
        values = [
            f"{entry[split][metric]:.4f}" if split in entry else ""
            for split in ("val", "test")
            for metric in metrics
        ]
        table.add_row(label, str(entry.get("round", "")), *values, style=style)

    chance = {name: chance_level(name, _num_candidates(summary)) for name in metrics}
    row("best validation round", summary["headline"], style="bold")
    row("last round", summary["last"])
    row("chance", {"val": chance, "test": chance}, style="dim")
    table.add_section()
    row("best test (for comparison with\npublished tables only)", summary["best_test"], style="dim")
    return Group(table, Text(_costs(summary), style="dim"))


def comparison(runs: Sequence[tuple[str, Run]]) -> RenderableType:
    """A row for each finished run: the test values at its best validation round."""
    metrics = list(
        dict.fromkeys(
            m for _, run in runs for m in ranking_metrics(run.summary["headline"]["test"])
        )
    )
    table = Table(
        box=box.SIMPLE_HEAD, title="Test values at the best validation round",
        title_justify="left", title_style="bold", pad_edge=False,
    )  # fmt: skip
    table.add_column("run", overflow="fold")
    table.add_column("data set")
    table.add_column("protocol")
    for name in ("round", *(metric.upper() for metric in metrics), "s/round"):
        table.add_column(name, justify="right")
    for label, run in runs:
        summary = run.summary
        values = [summary["headline"]["test"].get(metric) for metric in metrics]
        table.add_row(
            label, summary["dataset"], summary["protocol"], str(summary["headline"]["round"]),
            *("" if value is None else f"{value:.4f}" for value in values),
            f"{summary['seconds_per_round']:.3g}",
        )  # fmt: skip
    return table


def _opening(setting: dict[str, Any]) -> Panel:
    config: Config = setting["config"]
    federation: Federation = setting["federation"]
    rules = federation.protocol
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    interactions = len(federation.items) + 2 * federation.num_clients
    table.add_row(
        "data",
        f"{federation.num_clients:,} clients, {federation.num_items:,} items, "
        f"{interactions:,} interactions",
    )
    steps = [
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in federation.cleaning.items()
        if count and name not in ("users", "items", "interactions")
    ]
    if steps:
        table.add_row("preparation", ", ".join(steps))
    table.add_row(
        "protocol",
        f"{rules.name}: negatives from the {rules.negative_pool} items, "
        f"{rules.num_candidates} candidates ({rules.candidates}), ties {rules.ties}",
    )
    table.add_row("fingerprint", federation.fingerprint)
    table.add_row("device", f"{setting['device']} · jax {setting['versions']['jax']}")
    table.add_row("run", f"{config.rounds} rounds, seed {config.seed}")
    return Panel(
        table, title=f"[bold]{config.method}[/bold] on {federation.name}", title_align="left"
    )


def _title(summary: dict[str, Any]) -> str:
    return (
        f"{summary['method']} on {summary['dataset']} · protocol {summary['protocol']} · "
        f"{summary['fingerprint']}"
    )


def _num_candidates(summary: dict[str, Any]) -> int:
    return summary["protocol_switches"]["num_candidates"]


def _costs(summary: dict[str, Any]) -> str:
    return (
        f"{_speed(summary['seconds_per_round'])} after {summary['compile_seconds']:.1f} s of "
        f"compiling on {summary['device']} · {_bytes(summary['bytes_up'])} up, "
        f"{_bytes(summary['bytes_down'])} down"
    )


def _speed(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms/round" if seconds < 0.1 else f"{seconds:.3g} s/round"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"

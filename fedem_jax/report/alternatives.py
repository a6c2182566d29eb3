"""The table and the picture of a run beside its alternatives, and their progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import TaskID

from fedem_jax.evaluation.metrics import metric_title, ranked_title
from fedem_jax.evaluation.records import Alternative, Record, Setting, Summary
from fedem_jax.report import style
from fedem_jax.report.progress import live_bar
from fedem_jax.report.style import COLOURS, GREY
from fedem_jax.report.tables import Row, Table
from fedem_jax.runs.observers import Observer

MEANING = {
    "alone": "each client trains by itself",
    "one table for all (FedAvg)": "the mean of all clients replaces every table",
    "its cohort's table": "the mean of the cohort replaces the tables of its clients",
    "popularity": "the same list for everybody",
}
"""What each alternative is, for the picture."""


def alternatives_table(found: Sequence[Alternative], summary: Summary) -> Table:
    """A row for the run and for each alternative: HR with its interval, and the lead of the run.

    Args:
        found: of `run_alternatives`.
        summary: of the run.
    """
    metric, parts = f"hr@{summary['top_k']}", ("test", "test_full")
    header, rows = [""], []
    for part in parts:
        header += [f"{ranked_title(part)}\n{metric_title(metric)}", "\n95 %", "\nlead"]
    for place, each in enumerate(found):
        cells = [each["name"]]
        for part in parts:
            low, high = each["interval"][part][metric]
            mean, error = each["lead"][part][metric]
            cells += [
                f"{each[part][metric]:.3f}",
                f"{low:.2f} to {high:.2f}",
                f"{mean:+.3f} ± {error:.3f}" if place else "",
            ]
        rows.append(Row(cells, "" if place else "bold"))
    title = f"What the clients of {summary['dataset']} get from {found[0]['name']}, and otherwise"
    notes = [
        f"lead: of {found[0]['name']}, mean ± standard error of the paired differences over the "
        "clients; same settings, each at its best validation round"
    ]
    return Table(title, header, rows, notes, drop=[5, 2, 6, 4, 3])


def alternatives_chart(found: Sequence[Alternative], summary: Summary, path: Path) -> None:
    """Draw HR of the run and of each alternative with its interval, the run on top.

    Args:
        found: of `run_alternatives`.
        summary: of the run.
        path: PNG or any other format that Matplotlib knows by its ending.
    """
    metric = f"hr@{summary['top_k']}"
    caption = (
        f"dots: share of the {summary['clients']:,} clients whose test item is in their top "
        f"{summary['top_k']}; bars: 95 %, bootstrap over clients; protocol {summary['protocol']}, "
        f"seed {summary['seed']}"
    )
    title = f"What does merging bring the clients of {summary['dataset']}?"
    figure = style.new_figure((9.5, 1.6 + 0.55 * len(found)), title, caption)
    panels = figure.subplots(1, 2, sharey=True)
    among = f"among {summary['protocol_switches']['num_candidates']} candidates", "among all items"
    for panel, part, words in zip(panels, ("test", "test_full"), among, strict=True):
        style.frame(panel, f"{metric_title(metric)} {words}", across="", grid="x")
        for place, each in enumerate(found):
            value, (low, high) = each[part][metric], each["interval"][part][metric]
            colour = GREY if place else COLOURS[1]
            panel.errorbar(
                [value], [-place], xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o",
                color=colour, markersize=7 if place else 10, elinewidth=1.6,
            )  # fmt: skip
            panel.annotate(
                f"{value:.2f}", (value, -place), (0, 8), textcoords="offset points", ha="center",
                fontsize=9, color=colour, fontweight="normal" if place else "bold",
            )  # fmt: skip
        panel.set_xlim(left=0)
        panel.set_ylim(-len(found) + 0.4, 0.6)
    names = [each["name"] for each in found]
    labels = [f"{name}\n{MEANING[name]}" if name in MEANING else name for name in names]
    panels[0].set_yticks([-place for place in range(len(found))], labels)
    panels[0].get_yticklabels()[0].set_fontweight("bold")
    style.save(figure, path)


class AlternativeProgress(Observer):
    """Shows an alternative as it trains: a live bar, or one plain line."""

    def __init__(self, name: str, console: Console):
        self._name, self._console = name, console
        self._bar, self._task = None, TaskID(0)

    def on_start(self, setting: Setting) -> None:
        """Show its name."""
        if not self._console.is_terminal:
            self._console.print(f"for comparison: {self._name} ...")
            return
        self._bar = live_bar(self._console)
        description = f"for comparison: {self._name}"
        self._task = self._bar.add_task(description, total=setting["config"].rounds, values="")
        self._bar.start()

    def on_round(self, record: Record) -> None:
        """Show the newest round."""
        if self._bar is not None:
            self._bar.update(self._task, completed=record["round"])

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

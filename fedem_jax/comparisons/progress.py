"""Progress of a comparison: a line for each run, bars in a terminal, the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from fedem_jax.comparisons.plan import Comparison, PlannedRun
from fedem_jax.comparisons.run import Watcher
from fedem_jax.config.words import without_effect
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.records import Record, Summary
from fedem_jax.report.progress import live_bar
from fedem_jax.report.run_tables import kept_states
from fedem_jax.report.terminal import say
from fedem_jax.runs.reading import read_run
from fedem_jax.units import counted, in_words

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation


class Watch(Watcher):
    """Shows the runs of a comparison as they go; a context manager, so that the bars always end.

    Each finished run gets a line. A terminal has two bars below: runs and rounds.
    """

    def __init__(self, todo: Sequence[PlannedRun], paces: dict[str, float], console: Console):
        """
        Args:
            todo: the runs, in order.
            paces: seconds per round of methods that have run before, by name.
        """
        self._console, self._paces = console, dict(paces)
        self._ahead, self._total = list(todo), len(todo)
        self._begun = 0.0
        self._bar = live_bar(console)
        self._runs = self._bar.add_task("", values="")
        self._rounds = self._bar.add_task("", values="")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def say(self, sentence: str) -> None:
        """Show a sentence, above the bars."""
        say(self._console, sentence, "dim")

    def begin(self, run: PlannedRun) -> None:
        """Show which run has started."""
        self._begun = time.monotonic()
        rounds = run.config.rounds
        self._bar.update(
            self._rounds, completed=0, total=rounds, description=str(run), values="compiling"
        )
        self._show(0)
        self._bar.start()

    def on_round(self, record: Record) -> None:
        """Show the newest round."""
        metric = f"hr@{self._ahead[0].config.top_k}"
        values = f"round {record['round']}, val {metric_title(metric)} {record['val'][metric]:.3f}"
        self._bar.update(self._rounds, completed=record["round"], values=values)
        self._show(record["round"])

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Show the result of the run, and the time that the others may take."""
        run, seconds = self._ahead[0], time.monotonic() - self._begun
        self._paces[run.name] = seconds / run.config.rounds
        del self._ahead[0]
        metric = f"hr@{summary['top_k']}"
        value = summary["headline"]["test"][metric]
        line = self._line(run, f"{metric_title(metric)} {value:.4f}, {in_words(seconds)}")
        self._console.print(Text(line), soft_wrap=True)

    def fail(self, run: PlannedRun, reason: str) -> None:
        """Show why a method is left out."""
        others = [planned for planned in self._ahead if planned.name != run.name]
        self._total -= len(self._ahead) - len(others) - 1
        self._ahead = others
        say(self._console, self._line(run, f"failed; {reason}"))

    def _line(self, run: PlannedRun, result: str) -> str:
        """The line of a run that has ended."""
        done = self._total - len(self._ahead)
        seconds = time_left(self._ahead, self._paces)
        left = f" ({in_words(seconds)} left)" if seconds else ""
        number = f"{done:>{len(str(self._total))}}/{self._total}"
        return f"{number} {run}: {result}{left}"

    def _show(self, rounds: int) -> None:
        """Put the number of the run and the time left beside the upper bar."""
        run, done = self._ahead[0], self._total - len(self._ahead)
        elapsed, paces = time.monotonic() - self._begun, self._paces
        if rounds and run.name not in paces:
            paces = paces | {run.name: elapsed / rounds}
        seconds = time_left(self._ahead, paces)
        left = f"{in_words(max(1, seconds - elapsed))} left" if seconds else ""
        number = f"run {done + 1}/{self._total}"
        self._bar.update(
            self._runs, completed=done, total=self._total, description=number, values=left
        )


def opening(
    comparison: Comparison, todo: Sequence[PlannedRun], federation: Federation, kept: int = 0
) -> Text:
    """Which data, methods and seeds are about to run, and how many bytes of states they keep."""
    runs = comparison.runs()
    methods, done = len(runs) // comparison.seeds, len(runs) - len(todo)
    finished = f", {done} of them finished" if done else ""
    states = f"\nstates: {kept_states(kept)}" if kept else ""
    return Text(
        f"{federation.name}, protocol {federation.protocol.name}: {federation.num_clients:,} "
        f"clients, {federation.num_items:,} items\n"
        f"{counted(methods, 'method')} x {counted(comparison.seeds, 'seed')} = "
        f"{counted(len(runs), 'run')}{finished}{states}"
    )


def idle_switches(comparison: Comparison) -> list[str]:
    """Sentences on the methods' own settings that change nothing."""
    return [
        f"{without_effect(each.idle, each.name)}." for each in comparison.contenders if each.idle
    ]


def time_left(runs: Sequence[PlannedRun], paces: dict[str, float]) -> float:
    """Seconds that the runs will take; 0 if no pace is known.

    A method without a pace is assumed to have the mean pace of the others.

    Args:
        paces: seconds per round, compiling included, by name of the method.
    """
    usual = float(np.mean(list(paces.values()))) if paces else 0.0
    return sum(paces.get(run.name, usual) * run.config.rounds for run in runs)


def paces_of(comparison: Comparison, todo: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds per round of the methods that have finished runs, by name."""
    waiting, paces = {run.path for run in todo}, {}
    for run in comparison.runs():
        if run.path not in waiting:
            summary = read_run(run.path).summary
            compiling = summary["compile_seconds"] / summary["rounds"]
            paces[run.name] = summary["seconds_per_round"] + compiling
    return paces

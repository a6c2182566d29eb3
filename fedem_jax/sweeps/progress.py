"""Progress of a sweep: what is about to run, a bar or lines, the best setting so far."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from fedem_jax.config.words import without_effect
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.metrics import full_title
from fedem_jax.report.progress import live_bar
from fedem_jax.report.tables import Row, Table, in_terminal
from fedem_jax.report.terminal import say
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.runner import Shape
from fedem_jax.sweeps.space import Setting, as_text
from fedem_jax.units import counted, in_bytes, in_words

MOST_SHAPES = 12
"""Most programs that are listed one by one."""


class Watch:
    """Shows a sweep as it goes; a context manager, so that the bar always ends.

    A terminal gets a live bar; a file or a pipe gets a line after each chunk.
    """

    def __init__(self, console: Console):
        self._console = console
        self._sweep: Sweep | None = None
        self._bar = live_bar(console)
        self._task = self._bar.add_task("", values="")
        self._ahead: list[tuple[Shape, int]] = []  # with the number of trials left
        self._paces: dict[int, float] = {}  # seconds per trial and round, by shape
        self._compiling: list[float] = []
        self._begun, self._done, self._total = 0.0, 0, 0

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def plan(self, sweep: Sweep, federation: Federation, shapes: Sequence[Shape]) -> None:
        """Show what is about to run; the first time with the whole sweep."""
        left = sum(len(shape.trials) for shape in shapes)
        first_batch, by_batch = self._sweep is None, sweep.search == "optuna"
        if first_batch:
            self._sweep = sweep
            self._console.print(Text(opening(sweep, federation)), soft_wrap=True)
            if idle := idle_settings(sweep):
                say(self._console, idle)
            if 1 < len(shapes) <= MOST_SHAPES:
                self._console.print(in_terminal(listing(sweep, shapes)))
        chunks = sum(shape.chunks for shape in shapes)
        widest = max(shape.width for shape in shapes)
        first = min(shape.first for shape in shapes)
        rounds = f"rounds {first + 1} to {shapes[0].ends[-1]}"
        batch = (
            f"{counted(left, 'trial')}, {rounds}: {counted(len(shapes), 'program')} to compile, "
            f"{counted(chunks, 'call')}, {widest} side by side, "
            f"{in_bytes(max(shape.bytes for shape in shapes))} a device; time: known after the "
            "first call"
        )
        if first_batch or not by_batch:
            self._console.print(Text(batch, "dim"), soft_wrap=True)
            asked = len(sweep.shard.cut(range(sweep.trials))) if sweep.shard else sweep.trials
            self._done, self._total = 0, asked * len(sweep.seeds) if by_batch else left
        self._ahead = [(shape, len(shape.trials)) for shape in shapes]
        self._begun = time.monotonic()
        self._show("compiling")
        self._bar.start()

    def chunk(self, shape: Shape, results: TrialResults, trials: int, seconds: float) -> None:
        """Show the progress, and the best setting so far."""
        elapsed = time.monotonic() - self._begun
        if len(shape.trials) == self._ahead[0][1]:  # the first call includes compiling
            self._compiling.append(max(0.0, elapsed - seconds))
        self._begun, self._done = time.monotonic(), self._done + trials
        self._paces[id(shape)] = seconds / trials
        self._ahead[0] = (shape, self._ahead[0][1] - trials)
        if not self._ahead[0][1]:
            del self._ahead[0]
        best, remaining = self._best(results, shape.ends[-1]), self.time_left()
        left = f"{in_words(remaining)} left" if remaining else ""
        values = ", ".join(filter(None, [best, left]))
        number = self._show(values)
        if not self._console.is_terminal:
            pace = f"{in_words(seconds / trials)} a trial"
            self._console.print(Text(f"{number} {pace}; {values}"), soft_wrap=True)

    def _show(self, values: str) -> str:
        """Move the bar. Returns the label before it."""
        number = f"{self._done:>{len(str(self._total))}}/{self._total}"
        self._bar.update(
            self._task, completed=self._done, total=self._total, description=number, values=values
        )
        return number

    def time_left(self) -> float:
        """Seconds that the rest of the batch will take.

        A shape that has not run yet is assumed to take the mean times of those that have.
        """
        usual = sum(self._paces.values()) / max(1, len(self._paces))
        compiling = sum(self._compiling) / max(1, len(self._compiling))
        seconds = 0.0
        for shape, left in self._ahead:
            known = id(shape) in self._paces
            seconds += left * self._paces.get(id(shape), usual) + (0 if known else compiling)
        return seconds

    def _best(self, results: TrialResults, rounds: int) -> str:
        """The best mean over the seeds so far; the best trial until a setting has all its seeds."""
        assert self._sweep is not None
        seeds = self._sweep.seeds
        values = {n: results.value(n, seeds, rounds)[0] for n in range(len(results.settings))}
        single = {(n,): results.value(n, (seed,), rounds)[0] for n, seed in results.curves}
        best = max(values, key=lambda n: values[n])
        kind, value, number = "best", values[best], best
        if value == -float("inf"):
            (number,) = max(single, key=lambda n: single[n])
            kind, value = "best trial", single[number,]
        if value == -float("inf"):
            return "all diverged so far"
        name = full_title(*results.metric.split(" "))
        return f"{kind} {name} {value:.4f} ({in_brief(results.settings[number])})"


def opening(sweep: Sweep, federation: Federation) -> str:
    """The sweep in three lines."""
    number = len(sweep.settings()) if sweep.search != "optuna" else sweep.trials
    seeds, trials = len(sweep.seeds), number * len(sweep.seeds)
    kind = {"grid": "settings", "random": "settings drawn", "optuna": "settings by Optuna"}
    halving = f", the best 1/{sweep.halving} go on" if sweep.halving else ""
    part = f"; shard {sweep.shard} of them" if sweep.shard else ""
    return (
        f"{sweep.config.method} on {federation.name}, protocol {federation.protocol.name}: "
        f"{federation.num_clients:,} clients, {federation.num_items:,} items\n"
        f"{number} {kind[sweep.search]} x {counted(seeds, 'seed')} = {counted(trials, 'trial')} of "
        f"{counted(sweep.config.rounds, 'round')}{halving}{part}\n"
        f"varied: {'  '.join(map(str, sweep.varied))}"
    )


def idle_settings(sweep: Sweep) -> str:
    """A sentence on the varied settings that change nothing; empty: there are none."""
    if not (idle := sweep.idle()):
        return ""
    return f"{without_effect(idle, sweep.config.method)}; trials that differ in nothing else agree."


def listing(sweep: Sweep, shapes: Sequence[Shape]) -> Table:
    """A row for each program: the settings that differ, number of trials and calls, memory."""
    names = [values.name for values in sweep.varied]
    differ = [name for name in names if len({getattr(shape.program, name) for shape in shapes}) > 1]
    rows = [
        Row([
            in_brief({name: getattr(shape.program, name) for name in differ}),
            str(len(shape.trials)), str(shape.chunks), str(shape.width), in_bytes(shape.bytes),
        ])
        for shape in shapes
    ]  # fmt: skip
    return Table("", ["program", "trials", "calls", "side by side", "memory a device"], rows)


def in_brief(setting: Setting) -> str:
    """A setting in one line."""
    return ", ".join(f"{name}={as_text(value)}" for name, value in setting.items())

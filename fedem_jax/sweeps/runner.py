"""Runs the trials of a sweep, shape by shape and chunk by chunk, and records their results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.data.federation import Federation
from fedem_jax.runs.memory import USABLE, MemoryPlan, bytes_of, free_memory, plan_stack
from fedem_jax.runs.observers import reason
from fedem_jax.runs.simulation import Simulation
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.kept import KeptStates
from fedem_jax.sweeps.results import Curve, TrialId, TrialResults
from fedem_jax.sweeps.search import Batch
from fedem_jax.sweeps.stack import Report, Stack, metrics_of

MOST_AT_ONCE = 16
"""Most settings that a search is asked for at once."""


class Shape(NamedTuple):
    """Trials that share a compiled program."""

    program: Config
    """Settings, with neutral values for those that the program takes as arguments."""
    trials: list[tuple[TrialId, Config]]
    """Each trial with its settings, in order."""
    first: int
    """Rounds that the trials have done."""
    ends: list[int]
    """Rounds after which they are evaluated."""
    width: int
    """Trials side by side."""
    chunk: int
    """Trials of one call."""
    memory: MemoryPlan
    """Memory of one trial."""

    @property
    def chunks(self) -> int:
        """Number of calls."""
        return -(-len(self.trials) // self.chunk)

    @property
    def bytes(self) -> int:
        """Memory of a device that all trials side by side take."""
        return self.memory.data + self.width * (self.memory.total - self.memory.data)


def stacked_as(
    program: Config, federation: Federation, trials: int, width: int = 0
) -> tuple[MemoryPlan, int]:
    """Memory of one of the trials, and how many run side by side, in groups of about equal size.

    Args:
        program: settings that all trials share.
        federation: the data.
        trials: number of trials.
        width: most trials side by side; 0: as many as fit.
    """
    layout = Simulation(program, federation).layout
    memory, most = plan_stack(program, federation, layout, trials)
    most = min(width or most, trials)
    return memory, -(-trials // -(-trials // most))


def with_copy(memory: MemoryPlan, width: int) -> tuple[MemoryPlan, int]:
    """The memory of a trial of which a second state is kept, and how many of `width` then fit."""
    state = memory.clients + memory.server
    scratch = {phase: size + state for phase, size in memory.scratch.items()}
    more = memory._replace(scratch=scratch, advice="leave keep_states out")
    room = int(USABLE * memory.limit - memory.data) // (more.total - memory.data)
    return more, max(1, min(width, room))


def arguments(sweep: Sweep, federation: Federation) -> tuple[str, ...]:
    """Names of the settings that a program takes as arguments."""
    hyper = Simulation(sweep.config, federation).algorithm.hyper
    return getattr(hyper, "_fields", ())


def in_line(sweep: Sweep, numbers: Collection[str]) -> list[TrialId]:
    """All trials of a grid or of a random search, in the order that shards cut: program by program,
    and in it setting by setting.

    So a shard compiles few programs: all shards together compile at most one more for each cut.
    All seeds of a setting are in one shard, unless a cut is among them. So a lost shard leaves the
    others whole.

    Args:
        sweep: the description.
        numbers: as `arguments` gives them.
    """
    groups: dict[Config, list[int]] = {}
    for number, setting in enumerate(sweep.settings()):
        program = sweep.config_of(setting, sweep.seeds[0]).as_program(numbers)
        groups.setdefault(program, []).append(number)
    return [(n, seed) for group in groups.values() for n in group for seed in sweep.seeds]


class Runner:
    """Runs batches of trials of one sweep."""

    def __init__(
        self,
        sweep: Sweep,
        federations: dict[int, Federation],
        results: TrialResults,
        *,
        width: int = 0,
        chunk: int = 0,
        watch: Watcher | None = None,
        kept: KeptStates | None = None,
    ):
        """
        Args:
            sweep: the description.
            federations: the data by seed.
            results: receives the results; trials in it are not run again.
            width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
            chunk: trials of one call; 0: as many as run side by side.
            watch: follows the sweep, and may end it.
            kept: receives the states of all trials; None: they are not kept.
        """
        self.sweep, self.results, self.watch, self.kept = sweep, results, watch, kept
        self.ended_early = ""
        """Why the watcher wants the sweep to end; empty: it does not."""
        self._federations, self._width, self._chunk = federations, width, chunk
        self._federation = next(iter(federations.values()))
        self._numbers = arguments(sweep, self._federation)
        self._stacks: dict[tuple[Config, int, int], Stack] = {}
        self._states: dict[TrialId, Any] = {}
        self._running = 0.0
        self._room = free_memory() // 2  # for the states of trials that may run on

    @property
    def at_once(self) -> int:
        """Settings whose trials, with all seeds, fill the places side by side; at least one."""
        seeds = len(self.sweep.seeds)
        every, config = MOST_AT_ONCE * seeds, self.sweep.config
        return max(1, stacked_as(config, self._federation, every, self._width)[1] // seeds)

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds spent in compiled programs, and in compiling."""
        return self._running, sum(stack.compiling for stack in self._stacks.values())

    def run(self, batch: Batch) -> None:
        """Run the trials that have no results yet."""
        shapes = self.shapes(batch)
        if shapes and self.watch:
            self.watch.plan(self.sweep, self._federation, shapes)
        for shape in shapes:
            for start in range(0, len(shape.trials), shape.chunk):
                if not self.ended_early:
                    self._run_chunk(shape, shape.trials[start : start + shape.chunk], batch)

    def shapes(self, batch: Batch) -> list[Shape]:
        """The missing trials of a batch, by program.

        A trial runs on from its state if that is known, else it starts again.
        """
        groups: dict[tuple[Config, int], list[tuple[TrialId, Config]]] = {}
        for key, config in self._trials(batch):
            curve = self.results.curves.get(key)
            kept = self.kept is None or key in self.kept
            if curve and (curve.diverged or (curve.rounds >= batch.rounds and kept)):
                continue
            first = curve.rounds if curve and key in self._states else 0
            program = config.as_program(self._numbers)
            groups.setdefault((program, first), []).append((key, config))
        shapes = [self._shape(*group, trials, batch) for group, trials in groups.items()]
        if self.kept:
            self.kept.check_room(sum(
                len(shape.trials) * (m.clients + m.server) * m.devices
                for shape in shapes for m in [shape.memory]
            ))  # fmt: skip
        return shapes

    def _trials(self, batch: Batch) -> list[tuple[TrialId, Config]]:
        """All trials of a batch: seed by seed, so that every setting has a result early.

        With successive halving they come setting by setting, so that states can be dropped early.
        """
        numbers = [self.results.number_of(setting) for setting in batch.settings]
        keys = [(number, seed) for seed in self.sweep.seeds for number in numbers]
        if batch.survive:
            keys = [(number, seed) for number in numbers for seed in self.sweep.seeds]
        if self.sweep.shard and self.sweep.search != "optuna":
            own = set(self.sweep.shard.cut(in_line(self.sweep, self._numbers)))
            keys = [key for key in keys if key in own]
        settings = self.results.settings
        return [((n, seed), self.sweep.config_of(settings[n], seed)) for n, seed in keys]

    def _shape(
        self, program: Config, first: int, trials: list[tuple[TrialId, Config]], batch: Batch
    ) -> Shape:
        memory, width = stacked_as(program, self._federation, len(trials), self._width)
        if self.kept:
            memory, width = with_copy(memory, width)
        memory.check()
        chunk = width * max(1, min(self._chunk, len(trials)) // width)
        each = program.eval_every
        ends = [*range(first + each, batch.rounds, each), batch.rounds]
        return Shape(program, trials, first, ends, width, chunk, memory)

    def _run_chunk(
        self, shape: Shape, trials: Sequence[tuple[TrialId, Config]], batch: Batch
    ) -> None:
        stack, begun = self._stack(shape), time.perf_counter()
        compiled = stack.compiling
        before = [self._states.pop(key) for key, _ in trials] if shape.first else []
        configs = [config for _, config in trials]
        keep = "best" if self.kept else "last" if batch.survive else ""
        report, states = stack.run(configs, shape.ends, shape.first, before, keep=keep)
        seconds = time.perf_counter() - begun - (stack.compiling - compiled)
        self._running += seconds
        for place, (key, _) in enumerate(trials):
            curve = self._curve(report, place, shape.ends, seconds / len(trials))
            known = self.results.curves.get(key)
            self.results.curves[key] = known.then(curve) if known and shape.first else curve
        for (key, _), state in zip(trials, states, strict=bool(states)):
            if self.kept:
                if not self.results.curves[key].diverged:
                    layout = stack.simulation.layout
                    self.kept.put(key, int(state.round), state.state, layout)
            elif bytes_of([*self._states.values(), state]) <= self._room:
                self._states[key] = state
        if batch.survive:
            self._drop_states(batch)
        self.results.save(sparing=True)
        if self.watch:
            answer = self.watch.chunk(shape, self.results, len(trials), seconds)
            self.ended_early = reason(self.watch, answer)

    def _curve(self, report: Report, place: int, ends: Sequence[int], seconds: float) -> Curve:
        sound = report.sound[place]
        good = len(sound) if sound.all() else int(np.argmin(sound))
        k = self.sweep.config.top_k
        values = {"round": np.array(ends), "loss": np.asarray(report.loss[place], np.float64)}
        values |= metrics_of(report.counts[place], self._federation, k)
        cut = {name: each[:good] for name, each in values.items()}
        return Curve(cut, 0 if sound.all() else ends[good], seconds)

    def _stack(self, shape: Shape) -> Stack:
        key = (shape.program, shape.width, shape.chunk)
        if key not in self._stacks:
            config = dataclasses.replace(shape.program, block_size=shape.memory.block)
            self._stacks[key] = Stack(config, self._federations, shape.width, shape.chunk)
        return self._stacks[key]

    def _drop_states(self, batch: Batch) -> None:
        """Drop the states of settings that can no longer be among the survivors."""
        seeds, curves = self.sweep.seeds, self.results.curves
        every = [self.results.number_of(setting) for setting in batch.settings]
        values = {n: self.results.value(n, seeds, batch.rounds) for n in every}
        best = sorted(every, key=lambda n: values[n], reverse=True)[: batch.survive]
        for key in list(self._states):
            own = (curves.get((key[0], seed)) for seed in seeds)
            complete = all(c and (c.diverged or c.rounds >= batch.rounds) for c in own)
            if complete and key[0] not in best:
                del self._states[key]


@runtime_checkable
class Watcher(Protocol):
    """Follows a sweep, such as a progress bar, and may end it early."""

    def plan(self, sweep: Sweep, federation: Federation, shapes: Sequence[Shape]) -> None:
        """Called before a batch starts, with the shapes to run."""

    def chunk(
        self, shape: Shape, results: TrialResults, trials: int, seconds: float
    ) -> str | bool | None:
        """Called after each chunk of trials.

        Args:
            shape: what the trials share.
            results: those of all trials so far; `results.trials()` is a table.
            trials: number of trials of the chunk.
            seconds: its time.

        Returns:
            A reason, or True, to end the sweep now. It then has its tables as any other, and the
            reason stands in `SweepResult.about` as `ended_early`. None or False lets it go on.
        """

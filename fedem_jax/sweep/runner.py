"""Runs the trials of a sweep, shape by shape, chunk by chunk, and enters them in the ledger."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.data.federation import Federation
from fedem_jax.runs.memory import MemoryPlan, bytes_of, free_memory, plan_stack
from fedem_jax.runs.simulation import Simulation
from fedem_jax.sweep.description import Sweep
from fedem_jax.sweep.results import Curve, TrialId, TrialResults
from fedem_jax.sweep.search import Batch
from fedem_jax.sweep.stack import Report, Stack, metrics_of

MOST_AT_ONCE = 16
"""Settings that are worth asking a search for at once."""


class Shape(NamedTuple):
    """Trials that share a compiled program."""

    program: Config
    """Settings with neutral values in the place of what the program takes as arguments."""
    trials: list[tuple[TrialId, Config]]
    """Each with its settings, in order."""
    first: int
    """Rounds that they have behind them."""
    ends: list[int]
    """Rounds after which they are evaluated."""
    width: int
    """Trials side by side."""
    chunk: int
    """Trials of one call."""
    memory: MemoryPlan
    """What one of them takes."""

    @property
    def chunks(self) -> int:
        """Calls."""
        return -(-len(self.trials) // self.chunk)

    @property
    def bytes(self) -> int:
        """What all that lie side by side take on a device."""
        return self.memory.data + self.width * (self.memory.total - self.memory.data)


def stacked_as(
    program: Config, federation: Federation, trials: int, width: int = 0
) -> tuple[MemoryPlan, int]:
    """What one of so many trials takes, and how many lie side by side, in chunks of even size; at
    most `width`, if that is set, else as many as fit."""
    layout = Simulation(program, federation).layout
    memory, most = plan_stack(program, federation, layout, trials)
    most = min(width or most, trials)
    return memory, -(-trials // -(-trials // most))


class Runner:
    """Runs batches of trials of one sweep."""

    def __init__(
        self,
        wanted: Sweep,
        federations: dict[int, Federation],
        ledger: TrialResults,
        *,
        width: int = 0,
        chunk: int = 0,
        watch: Watcher | None = None,
    ):
        """
        Args:
            wanted: the sweep.
            federations: the data by seed.
            ledger: what is in it is not run again.
            width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
            chunk: trials of one call; 0: as many as are side by side.
            watch: told of what is to come, and of every chunk.
        """
        self.wanted, self.ledger, self.watch = wanted, ledger, watch
        self._federations, self._width, self._chunk = federations, width, chunk
        self._federation = next(iter(federations.values()))
        hyper = Simulation(wanted.config, self._federation).algorithm.hyper
        self._numbers: tuple[str, ...] = getattr(hyper, "_fields", ())
        self._stacks: dict[tuple[Config, int, int], Stack] = {}
        self._states: dict[TrialId, Any] = {}
        self._running = 0.0
        self._room = free_memory() // 2  # for states that may be gone on from

    @property
    def at_once(self) -> int:
        """Settings whose trials, with all seeds, fill the places side by side; at least one."""
        seeds = len(self.wanted.seeds)
        every, config = MOST_AT_ONCE * seeds, self.wanted.config
        return max(1, stacked_as(config, self._federation, every, self._width)[1] // seeds)

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds of compiled programs, and of compiling."""
        return self._running, sum(stack.compiling for stack in self._stacks.values())

    def run(self, batch: Batch) -> None:
        """Run whatever the ledger lacks."""
        shapes = self.shapes(batch)
        if shapes and self.watch:
            self.watch.plan(self.wanted, self._federation, shapes)
        for shape in shapes:
            for start in range(0, len(shape.trials), shape.chunk):
                self._run_chunk(shape, shape.trials[start : start + shape.chunk], batch)

    def shapes(self, batch: Batch) -> list[Shape]:
        """What a batch still lacks, by program. A trial goes on where its state is known, and else
        begins anew."""
        found: dict[tuple[Config, int], list[tuple[TrialId, Config]]] = {}
        for key, config in self._trials(batch):
            curve = self.ledger.curves.get(key)
            if curve and (curve.diverged or curve.rounds >= batch.rounds):
                continue
            first = curve.rounds if curve and key in self._states else 0
            program = config.as_program(self._numbers)
            found.setdefault((program, first), []).append((key, config))
        return [self._shape(*about, trials, batch) for about, trials in found.items()]

    def _trials(self, batch: Batch) -> list[tuple[TrialId, Config]]:
        """All trials of a batch: seed by seed, so that every setting is seen early; or, where most
        settings are about to be dropped, setting by setting."""
        numbers = [self.ledger.number_of(setting) for setting in batch.settings]
        keys = [(number, seed) for seed in self.wanted.seeds for number in numbers]
        if batch.survive:
            keys = [(number, seed) for number in numbers for seed in self.wanted.seeds]
        settings = self.ledger.settings
        return [((n, seed), self.wanted.config_of(settings[n], seed)) for n, seed in keys]

    def _shape(
        self, program: Config, first: int, trials: list[tuple[TrialId, Config]], batch: Batch
    ) -> Shape:
        memory, width = stacked_as(program, self._federation, len(trials), self._width)
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
        report, states = stack.run(
            [config for _, config in trials],
            shape.ends,
            shape.first,
            before,
            keep=bool(batch.survive),
        )
        seconds = time.perf_counter() - begun - (stack.compiling - compiled)
        self._running += seconds
        for place, (key, _) in enumerate(trials):
            curve = self._curve(report, place, shape.ends, seconds / len(trials))
            known = self.ledger.curves.get(key)
            self.ledger.curves[key] = known.then(curve) if known and shape.first else curve
        for (key, _), state in zip(trials, states, strict=bool(states)):
            if bytes_of([*self._states.values(), state]) <= self._room:
                self._states[key] = state
        if batch.survive:
            self._drop_states(batch)
        self.ledger.save(sparing=True)
        if self.watch:
            self.watch.chunk(shape, self.ledger, len(trials), seconds)

    def _curve(self, report: Report, place: int, ends: Sequence[int], seconds: float) -> Curve:
        sound = report.sound[place]
        good = len(sound) if sound.all() else int(np.argmin(sound))
        k, clients = self.wanted.config.top_k, self._federation.num_clients
        values = {"round": np.array(ends), "loss": np.asarray(report.loss[place], np.float64)}
        values |= metrics_of(report.counts[place], clients, k)
        cut = {name: each[:good] for name, each in values.items()}
        return Curve(cut, 0 if sound.all() else ends[good], seconds)

    def _stack(self, shape: Shape) -> Stack:
        about = (shape.program, shape.width, shape.chunk)
        if about not in self._stacks:
            config = dataclasses.replace(shape.program, block_size=shape.memory.block)
            self._stacks[about] = Stack(config, self._federations, shape.width, shape.chunk)
        return self._stacks[about]

    def _drop_states(self, batch: Batch) -> None:
        """Forget the states of settings that cannot be among those that go on any more."""
        seeds, curves = self.wanted.seeds, self.ledger.curves
        every = [self.ledger.number_of(setting) for setting in batch.settings]
        values = {n: self.ledger.value(n, seeds, batch.rounds) for n in every}
        best = sorted(every, key=lambda n: values[n], reverse=True)[: batch.survive]
        for key in list(self._states):
            known = (curves.get((key[0], seed)) for seed in seeds)
            there = all(c and (c.diverged or c.rounds >= batch.rounds) for c in known)
            if there and key[0] not in best:
                del self._states[key]


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches a sweep."""

    def plan(self, sweep: Sweep, federation: Federation, shapes: Sequence[Shape]) -> None:
        """Before a batch starts: what is left to run."""

    def chunk(self, shape: Shape, ledger: TrialResults, trials: int, seconds: float) -> None:
        """After each chunk of so many trials."""

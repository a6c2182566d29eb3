"""The run: segments of rounds, evaluated, recorded, summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import State
from fedem_jax.core.layout import Layout
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.evaluation.rho import counter
from fedem_jax.evaluation.summary import best_round, per_client, summarise_run
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.memory import advice_when_exhausted
from fedem_jax.runs.resume import Checkpointer, RunState
from fedem_jax.runs.simulation import Simulation, check_list, device_name, versions


@runtime_checkable
class Observer(Protocol):
    """Whoever watches a run: a progress bar, a run directory."""

    def start(self, setting: dict[str, Any]) -> None:
        """Before anything is compiled."""

    def record(self, record: dict[str, Any]) -> None:
        """After each evaluated round."""

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None:
        """After the last round; `per_client` as in `Result`."""


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    config: Config
    federation: Federation
    records: list[dict[str, Any]]
    """One record per evaluated round. Where rho is learned, `rho` holds counts as in
    `fedem_jax.evaluation.rho`."""
    summary: dict[str, Any]
    """Headline at the best validation round; best test value under its own name; settings."""
    per_client: pd.DataFrame
    """Ranks of every client at the best validation round, from `summary.per_client`."""
    state: State
    """Parameters of clients and server after the last round; the clients in order of place."""
    layout: Layout
    """Where each client is: `layout.place`."""

    @property
    def curve(self) -> pd.DataFrame:
        """The records as a table: one row per evaluated round, columns such as `test hr@10`."""
        flat = pd.json_normalize(self.records, sep=" ")
        return flat.set_index("round").drop(columns="rho", errors="ignore")


def run(
    config: Config,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Result:
    """Train and evaluate a federated method.

    Args:
        config: all settings.
        federation: the data; None: what `config` names.
        observers: told of the start, of every evaluated round and of the end.
        directory: where the run is written down and, if it is cut off, taken up again.
        stop: asked before every segment of rounds; the number of a signal ends the run there.

    Raises:
        UserError: unusable data, a list as long as the ranking, numbers that ceased to be finite, a
            device without the memory, or a disk that takes no more.
        CannotResume: what `directory` holds cannot be gone on with.
        Stopped: `stop` asked for it; what was reached is in `directory`.
    """
    if federation is None:
        federation = federation_of(config)
    check_list(config, federation)
    simulation = Simulation(config, federation)
    setting = {
        "config": config,
        "federation": federation,
        "device": device_name(),
        "versions": versions(),
    }
    watching = [*([directory] if directory else ()), *observers]
    with ExitStack() as open_until_the_end:
        if directory is not None:
            open_until_the_end.enter_context(directory)
        for observer in watching:
            observer.start(setting)
        keeper = None
        if directory is not None:
            keeper = open_until_the_end.enter_context(Checkpointer(directory, simulation, setting))
        try:
            with advice_when_exhausted(simulation.memory, config, federation, simulation.layout):
                course = (keeper.restore() if keeper else None) or RunState(simulation.init())
                go_through(simulation, course, watching, keeper, stop)
        except CannotResume:
            raise
        except UserError as error:
            kept = keeper.kept() if keeper else ""
            raise UserError(f"{error} {kept}".rstrip()) from None
        assert course.best is not None
        clients = per_client(federation, course.best)
        summary = summarise_run(config, federation, course.records, clients) | {
            "compile_seconds": course.compile_seconds,
            "seconds_per_round": course.seconds / config.rounds,
            "resumed": course.resumed,
            "device": setting["device"],
            "versions": setting["versions"],
        }
        for observer in watching:
            observer.finish(summary, clients)
    return Result(
        config, federation, course.records, summary, clients, course.state, simulation.layout
    )


def go_through(
    simulation: Simulation,
    course: RunState,
    watching: Sequence[Observer],
    keeper: Checkpointer | None,
    stop: Callable[[], int],
) -> None:
    """The rounds that a run has left, segment after segment; `course` is moved on, and kept."""
    config = simulation.config
    count_rho = counter(
        simulation.algorithm, simulation.federation, simulation.layout, simulation.lists
    )
    while course.round < config.rounds:
        length = min(config.eval_every, config.rounds - course.round)
        begun = time.perf_counter()
        segment = simulation.segment(course.state, length)
        ready = time.perf_counter()
        course.compile_seconds += ready - begun
        if number := stop():
            if keeper is not None:
                keeper.keep(course, at_once=True)
                keeper.wait()
            raise Stopped(number)
        course.state, info, ranks = jax.block_until_ready(segment(course.state, course.round))
        took = time.perf_counter() - ready
        course.round, course.seconds = course.round + length, course.seconds + took
        record = simulation.record(course.round, info, ranks) | {"seconds": took / length}
        if count_rho is not None:
            record["rho"] = count_rho(course.state).tolist()
        course.records.append(record)
        if best_round(course.records, config.top_k) is record:
            course.best = simulation.by_client(ranks)
        for observer in watching:
            observer.record(record)
        if keeper is not None:
            keeper.keep(course, at_once=course.round == config.rounds)
    if keeper is not None:
        keeper.wait()

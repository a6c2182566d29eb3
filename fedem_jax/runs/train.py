"""A run: it trains segments of rounds, evaluates and records each, and sums up."""

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
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.evaluation.rho import counter
from fedem_jax.evaluation.summary import best_round, per_client, summarise_run
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.memory import advice_when_exhausted
from fedem_jax.runs.resume import Checkpointer, RunState
from fedem_jax.runs.simulation import Simulation, check_list, device_name, versions


@runtime_checkable
class Observer(Protocol):
    """Follows a run, such as a progress bar or a run directory."""

    def start(self, setting: Setting) -> None:
        """Called before anything is compiled."""

    def record(self, record: Record) -> None:
        """Called after each evaluated round."""

    def finish(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Called after the last round; `per_client` as in `Result`."""


@dataclass(frozen=True)
class Result:
    """Everything that a run returns."""

    config: Config
    federation: Federation
    records: list[Record]
    """One record per evaluated round."""
    summary: Summary
    """Metrics at the best validation round (`headline`), best test value, settings."""
    per_client: pd.DataFrame
    """Ranks of every client at the best validation round, from `summary.per_client`."""
    state: State
    """Parameters after the last round; client u is at `layout.place[u]`."""
    layout: Layout

    @property
    def curve(self) -> pd.DataFrame:
        """The records as a table: one row per evaluated round, columns such as `test hr@10`."""
        rows: list[dict[str, Any]] = [dict(record) for record in self.records]
        flat = pd.json_normalize(rows, sep=" ")
        return flat.set_index("round").drop(columns="rho", errors="ignore")


def run(
    config: Config,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | None = None,
    stop: Callable[[], int] = lambda: 0,
    devices: Sequence[Any] = (),
) -> Result:
    """Train and evaluate a federated method.

    Args:
        config: all settings.
        federation: the data; None: what `config` names.
        observers: called at the start, after every evaluated round and at the end.
        directory: where the run is written or, if it was interrupted, resumed.
        stop: called before every segment of rounds; a signal's number ends the run, 0 does not.
        devices: JAX devices to run on; empty: all.

    Raises:
        UserError: unusable data, `top_k` larger than the number of candidates, numbers that are not
            finite, too little memory, or a file that cannot be written.
        CannotResume: the run in `directory` cannot be resumed.
        Stopped: `stop` ended the run; `directory` holds what was reached.
    """
    if federation is None:
        federation = federation_of(config)
    check_list(config, federation)
    return run_simulation(Simulation(config, federation, devices), observers, directory, stop)


def run_simulation(
    simulation: Simulation,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Result:
    """Run a simulation from its first round to its summary; arguments and errors as for `run`."""
    config, federation = simulation.config, simulation.federation
    setting: Setting = {
        "config": config,
        "federation": federation,
        "device": device_name(simulation.layout.mesh.devices.tolist()),
        "versions": versions(),
    }
    observers = [*([directory] if directory else ()), *observers]
    with ExitStack() as stack:
        if directory is not None:
            stack.enter_context(directory)
        for observer in observers:
            observer.start(setting)
        checkpointer = None
        if directory is not None:
            checkpointer = stack.enter_context(Checkpointer(directory, simulation, setting))
        try:
            with advice_when_exhausted(simulation.memory, config, federation, simulation.layout):
                run_state = checkpointer.restore() if checkpointer else None
                run_state = run_state or RunState(simulation.init())
                run_rounds(simulation, run_state, observers, checkpointer, stop)
        except CannotResume:
            raise
        except UserError as error:
            saved = checkpointer.describe() if checkpointer else ""
            raise UserError(f"{error} {saved}".rstrip()) from None
        assert run_state.best is not None
        clients = per_client(federation, run_state.best)
        summary: Summary = {
            **summarise_run(config, federation, run_state.records, clients),
            "compile_seconds": run_state.compile_seconds,
            "seconds_per_round": run_state.seconds / config.rounds,
            "resumed": run_state.resumed,
            "device": setting["device"],
            "versions": setting["versions"],
        }
        for observer in observers:
            observer.finish(summary, clients)
    return Result(
        config, federation, run_state.records, summary, clients, run_state.state, simulation.layout
    )


def run_rounds(
    simulation: Simulation,
    run_state: RunState,
    observers: Sequence[Observer],
    checkpointer: Checkpointer | None,
    stop: Callable[[], int],
) -> None:
    """Run the remaining rounds, segment after segment.

    Args:
        simulation: the method, its settings and its data.
        run_state: the state of the run, updated in place.
        observers: called after every evaluated round.
        checkpointer: saves `run_state` when a checkpoint is due; None: nothing is saved.
        stop: as in `run`.

    Raises:
        UserError: as in `run`.
        Stopped: as in `run`.
    """
    config = simulation.config
    count_rho = counter(
        simulation.algorithm, simulation.federation, simulation.layout, simulation.lists
    )
    while run_state.round < config.rounds:
        length = min(config.eval_every, config.rounds - run_state.round)
        begun = time.perf_counter()
        segment = simulation.segment(run_state.state, length)
        ready = time.perf_counter()
        run_state.compile_seconds += ready - begun
        if number := stop():
            if checkpointer is not None:
                checkpointer.save(run_state, at_once=True)
                checkpointer.wait()
            raise Stopped(number)
        run_state.state, info, ranks = jax.block_until_ready(
            segment(run_state.state, run_state.round)
        )
        seconds = time.perf_counter() - ready
        run_state.round += length
        run_state.seconds += seconds
        record = simulation.record(run_state.round, info, ranks)
        record["seconds"] = seconds / length
        if count_rho is not None:
            record["rho"] = count_rho(run_state.state).tolist()
        run_state.records.append(record)
        if best_round(run_state.records, config.top_k) is record:
            run_state.best = simulation.in_order(ranks)
        for observer in observers:
            observer.record(record)
        if checkpointer is not None:
            checkpointer.save(run_state, at_once=run_state.round == config.rounds)
    if checkpointer is not None:
        checkpointer.wait()

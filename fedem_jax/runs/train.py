"""A run: it trains segments of rounds, evaluates and records each, and sums up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from fedem_jax.config.base import Config
from fedem_jax.core.processes import (
    check_same,
    is_first,
    largest,
    lost_processes,
    reason_of_first,
    several,
)
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.evaluation.records import Setting, Summary
from fedem_jax.evaluation.summary import best_round, out_of_patience, per_client, summarise_run
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.following import in_sight, run_directory
from fedem_jax.runs.memory import advice_when_exhausted
from fedem_jax.runs.observers import Observer, Observers
from fedem_jax.runs.offload import simulation_of
from fedem_jax.runs.origin import Origin, name_of, origin_of
from fedem_jax.runs.result import Result
from fedem_jax.runs.resume import Checkpointer, RunState
from fedem_jax.runs.simulation import Simulation, check_list, device_name, kept_bytes, versions
from fedem_jax.runs.states import States
from fedem_jax.storage.files import check_room


def run(
    config: Config,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | str | Path | None = None,
    stop: Callable[[], int] = lambda: 0,
    devices: Sequence[Any] = (),
    start: Result | str | Path | None = None,
) -> Result:
    """Train and evaluate a federated method.

    Args:
        config: all settings.
        federation: the data; None: what `config` names.
        observers: called at the start, after every evaluated round and at the end. Each may end the
            run early. If the run is resumed, they hear of the rounds before as well. With
            several processes, only those of the first are called.
        directory: where the run is written or, if it was interrupted, resumed. A path: a new run
            is written there. None: nothing is written.
        stop: called before every segment of rounds; a signal's number ends the run, 0 does not.
        devices: JAX devices to run on; empty: all.
        start: a run, or its directory, whose best state this one starts from; None: what
            `config.start` names, if it names any.

    Raises:
        UserError: unusable data, `top_k` larger than the number of candidates, numbers that are not
            finite, too little memory, a file that cannot be written, or a `start` of another
            method, with other sizes or labels.
        CannotResume: the run in `directory` cannot be resumed.
        Stopped: `stop` ended the run; `directory` holds what was reached.

    Examples:
        >>> config = fj.preset("released", method="fedmf", rounds=2, dim=4, size_classes=1)
        >>> result = fj.run(config)
        >>> list(result.curve.index)
        [1, 2]
        >>> result.recommend(k=3).shape  # 600 clients
        (1800, 4)
    """
    if federation is None:
        federation = federation_of(config)
    check_list(config, federation)
    if isinstance(directory, str | Path):
        directory = run_directory(directory)
    if start is not None:
        config = dataclasses.replace(config, start=name_of(start))
    origin = origin_of(start or config.start) if start or config.start else None
    resume = f"go on with `fedem train --resume {directory.path}`" if directory else "run again"
    with lost_processes(resume):
        simulation = simulation_of(config, federation, devices)
        return run_simulation(simulation, observers, directory, stop, origin)


def run_simulation(
    simulation: Simulation,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | None = None,
    stop: Callable[[], int] = lambda: 0,
    origin: Origin | None = None,
) -> Result:
    """Run a simulation from its first round to its summary; arguments and errors as for `run`.

    Args:
        origin: where it starts from; None: from the initial parameters.
    """
    config, federation = simulation.config, simulation.federation
    if origin is not None:
        origin.check(config, federation)
    setting: Setting = {
        "config": config,
        "federation": federation,
        "device": device_name(simulation.layout.mesh.devices.tolist()),
        "versions": versions(),
    }
    if directory is not None:
        setting["kept_bytes"] = kept_bytes(config, federation, simulation.layout)
        remedy = "make room, give another --out, or keep none (--keep none)"
        check_room(directory.path, setting["kept_bytes"], "the states to be kept", remedy)
    with ExitStack() as stack:
        if directory is not None:
            stack.enter_context(directory)
        heard = observers if is_first() else ()
        everyone = Observers([*([directory] if directory else ()), *heard])
        stack.enter_context(everyone).on_start(setting)
        if directory is not None and several():
            in_sight(directory.path)
        checkpointer = None
        if directory is not None:
            checkpointer = stack.enter_context(Checkpointer(directory, simulation, setting))
        try:
            with advice_when_exhausted(simulation.memory, config, federation, simulation.layout):
                run_state = checkpointer.restore() if checkpointer else None
                if run_state is None:
                    run_state = RunState(origin.state(simulation) if origin else simulation.init())
                else:
                    reason = everyone.on_resume(run_state.records)
                    run_state.ended_early = reason_of_first(reason)
                check_same(str(run_state.round), "different checkpoints", "let all see one --out")
                run_rounds(simulation, run_state, everyone, checkpointer, stop)
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
            "seconds_per_round": run_state.seconds / run_state.round,
            "resumed": run_state.resumed,
            "device": setting["device"],
            "versions": setting["versions"],
        }
        if origin is not None:
            summary["start"] = origin.described
        if run_state.ended_early and "planned_rounds" in summary:
            summary["ended_early"] = run_state.ended_early
        everyone.on_end(summary, clients)
        if checkpointer is not None:
            checkpointer.clear()
    kept = {run_state.round: run_state.state}
    if run_state.headline is not None:
        kept[run_state.headline.round] = run_state.headline.state
    rounds = {"best": summary["headline"]["round"], "last": run_state.round}
    path = directory.path if directory else None
    states = States(simulation, rounds, kept, path)
    return Result(simulation, run_state.records, summary, states, path, clients)


def run_rounds(
    simulation: Simulation,
    run_state: RunState,
    observers: Observers,
    checkpointer: Checkpointer | None,
    stop: Callable[[], int],
) -> None:
    """Run the remaining rounds, segment after segment.

    Args:
        simulation: the method, its settings and its data.
        run_state: the state of the run, updated in place.
        observers: called after every evaluated round; one may end the run.
        checkpointer: saves `run_state` when a checkpoint is due; None: nothing is saved.
        stop: as in `run`.

    Raises:
        UserError: as in `run`.
        Stopped: as in `run`.
    """
    config = simulation.config
    count_rho = simulation.counter_of_rho()

    def ended() -> bool:
        return (
            run_state.round == config.rounds
            or bool(run_state.ended_early)
            or out_of_patience(run_state.records, config)
        )

    while not ended():
        length = min(config.eval_every, config.rounds - run_state.round)
        begun = time.perf_counter()
        segment = simulation.segment(run_state.state, length)
        ready = time.perf_counter()
        run_state.compile_seconds += ready - begun
        if number := largest(stop()):
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
            run_state.headline = None
            if config.keep != "none" and not ended():
                run_state.set_aside(simulation.copy)
        run_state.ended_early = reason_of_first(observers.on_round(record))
        if checkpointer is not None and not ended():
            checkpointer.save(run_state)
    if checkpointer is not None:
        checkpointer.finish(run_state, best_round(run_state.records, config.top_k)["round"])

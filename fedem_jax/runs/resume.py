"""The state of a run between two segments, and its checkpoints: saved, and restored."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.words import differences
from fedem_jax.core.algorithm import State
from fedem_jax.core.processes import from_first, is_first, meet
from fedem_jax.errors import CannotResume
from fedem_jax.evaluation.ranking import Ranks
from fedem_jax.evaluation.records import Record, Setting
from fedem_jax.runs.checks import RESUMED_WITH
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.names import CHECKPOINT
from fedem_jax.runs.placement import Places, rows_by_name
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.states import from_arrays, group
from fedem_jax.storage.checkpoint import Arrays, Checkpoints, Saved, found


@dataclass
class RunState:
    """All that the remaining rounds of a run and its summary need."""

    state: State
    """Parameters after round `round`."""
    round: int = 0
    """Rounds done."""
    records: list[Record] = field(default_factory=list)
    """One per evaluated round."""
    best: Ranks | None = None
    """Ranks at the best validation round so far, in the order of the federation."""
    seconds: float = 0.0
    """Time that the rounds took."""
    compile_seconds: float = 0.0
    """Time that compiling took."""
    resumed: list[int] = field(default_factory=list)
    """Rounds after which the run was resumed."""
    ended_early: str = ""
    """Why an observer wants the run to end before its last round; empty: none does."""
    headline: RunState | None = None
    """The run as it was after its best validation round; its state is a copy, on the devices or on
    the host. None: that is the present round, or it is on disk only, or nothing is kept."""

    def set_aside(self, copy: Callable[[State], State]) -> None:
        """Keep this state as that of the best validation round."""
        self.headline = None  # the room of the one before is free for the copy
        self.headline = dataclasses.replace(
            self, state=copy(self.state), records=[*self.records], resumed=[*self.resumed]
        )


class Checkpointer:
    """Saves the state of a run in its directory, and restores it.

    As a context manager it waits at the end for a write in progress.
    """

    def __init__(self, directory: RunDirectory, simulation: Simulation, setting: Setting):
        self._directory, self._simulation, self._setting = directory, simulation, setting
        folder = directory.path / CHECKPOINT
        self._checkpoints = Checkpoints(folder, jax.process_index(), jax.process_count())
        self._last_time, self._last_round = time.monotonic(), 0

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_) -> None:
        self._checkpoints.close()

    def restore(self) -> RunState | None:
        """The latest saved state of the run; None if the run starts from its first round.

        Raises:
            CannotResume: the checkpoint is damaged, or belongs to other settings, other data or
                another version; the message says which.
        """
        directory = self._directory
        if not directory.resume:
            return None
        saved = self._checkpoints.latest(directory.say)
        if saved is None:
            directory.say(f"{directory.path}: has no checkpoint yet, so it begins anew.")
            directory.rewind(0)
            return None
        info, arrays = saved
        self._check(info)
        try:
            state = from_arrays(arrays, info["shard"], self._simulation)
            ranks: dict[str, Any] = {
                name: np.array(rank) for name, rank in group(arrays, "best").items()
            }
            best = Ranks(**ranks)
        except (KeyError, TypeError, ValueError) as error:
            raise CannotResume(
                f"{self._checkpoints.folder}: does not fit this run ({error}); run again."
            ) from None
        number = self._last_round = info["round"]
        records = directory.rewind(number, info["rho"])
        directory.say(f"{directory.path}: goes on after round {number}.")
        times = info["seconds"], info["compile_seconds"]
        return RunState(state, number, records, best, *times, [*info["resumed"], number])

    def save(self, run_state: RunState, at_once: bool = False) -> None:
        """Save the state in the background, if a checkpoint is due or `at_once` is set. That of the
        best validation round is saved if it is not on disk yet.

        Raises:
            UserError: one of them cannot be written.
        """
        config, number = self._setting["config"], run_state.round
        if config.saves() and (at_once or from_first(self._due(config, number))):
            self._write(run_state)

    def _write(self, run_state: RunState) -> None:
        """As `save`, in any case, unless it is on disk."""
        config, best, number = self._setting["config"], run_state.headline, run_state.round
        if number == self._last_round:
            return
        self.wait()
        if best is not None:
            there = best.round in {number, *found(self._checkpoints.folder)}
            best = None if from_first(there) else best
        self._directory.flush()
        self._checkpoints.save(*(self._saved(each) for each in (best, run_state) if each))
        if config.clients_on_host:
            self.wait()  # the next rounds change the arrays that are written
        self._last_time, self._last_round = time.monotonic(), number

    def finish(self, run_state: RunState, best: int) -> None:
        """Save the last state and the best one, and leave no other.

        Args:
            run_state: after the last round.
            best: the best validation round.

        Raises:
            UserError: one of them cannot be written.
        """
        config = self._setting["config"]
        if config.keep == "none":
            self.wait()
            return
        self._write(run_state)
        self.wait()
        meet()
        self._checkpoints.keep({best, run_state.round})
        if best not in found(self._checkpoints.folder):
            self._directory.say(
                f"{self._checkpoints.folder}: holds no state of round {best}, the best on "
                "validation; the run was resumed after it was lost."
            )

    def clear(self) -> None:
        """Remove all checkpoints, if the settings say that none is kept; the run has ended."""
        if self._setting["config"].keep == "none":
            self._checkpoints.keep(())

    def _saved(self, run_state: RunState) -> Saved:
        """All that a run needs to go on from here."""
        config, number = self._setting["config"], run_state.round
        assert run_state.best is not None
        places = Places.of(self._simulation.layout)
        latest = run_state.records[-1]
        info = {
            "round": number,
            "validation": latest["val"][f"hr@{config.top_k}"],
            "seconds": run_state.seconds,
            "compile_seconds": run_state.compile_seconds,
            "resumed": run_state.resumed,
            "rho": "rho" in latest,
            "shard": places.shard,
            "config": dataclasses.asdict(config),
            "fingerprint": self._setting["federation"].fingerprint,
            "versions": self._setting["versions"],
        }
        best = {name: np.asarray(value) for name, value in run_state.best._asdict().items()}
        arrays: Arrays = {"state": rows_by_name(run_state.state)}
        if is_first():
            arrays |= {"best": best, "place": places.place}
        return Saved(info, arrays)

    def wait(self) -> None:
        """Wait until every checkpoint is on disk.

        Raises:
            UserError: a checkpoint could not be written.
        """
        self._checkpoints.wait()

    def describe(self) -> str:
        """A sentence about the latest checkpoint on disk; empty if there is none."""
        self._checkpoints.close()
        rounds = found(self._checkpoints.folder)
        if not rounds:
            return ""
        return f"The state of round {max(rounds)} is kept in {rounds[max(rounds)]}."

    def _due(self, config: Config, number: int) -> bool:
        """Whether the settings ask for a checkpoint after round `number`."""
        every, minutes = config.checkpoint_every, config.checkpoint_minutes
        if every and number - self._last_round >= every:
            return True
        return bool(minutes) and time.monotonic() - self._last_time >= 60 * minutes

    def _check(self, info: dict[str, Any]) -> None:
        """Refuse a checkpoint of another run."""
        config = json.loads(json.dumps(dataclasses.asdict(self._setting["config"])))
        old, new = info["versions"], self._setting["versions"]
        changed = differences(info["config"], config, RESUMED_WITH) + differences(
            {"data": info["fingerprint"], "version": old["fedem_jax"]},
            {"data": self._setting["federation"].fingerprint, "version": new["fedem_jax"]},
        )
        if changed:
            raise CannotResume(
                f"{self._checkpoints.folder}: belongs to another run ({'; '.join(changed)}); "
                "restore what it was made with, or run again with another --out."
            )
        if others := differences(old, new):
            self._directory.say(
                f"{self._directory.path}: was begun with {'; '.join(others)}; the last digits of "
                "its metrics may differ from those of an uninterrupted run."
            )

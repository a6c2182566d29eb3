"""Where a run stands, how that is kept in its directory, and how it is taken up from there."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedem_jax.config.base import differences
from fedem_jax.core.algorithm import State
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.evaluation.ranking import Ranks
from fedem_jax.runs.directory import RESUMED_WITH, RunDirectory
from fedem_jax.runs.placement import Places, on_devices, on_host
from fedem_jax.runs.simulation import Simulation
from fedem_jax.storage.checkpoint import FOLDER, Checkpoints, Saved, found


@dataclass
class RunState:
    """Where a run stands: all that its remaining rounds and its summary need."""

    state: State
    """Parameters after round `round`."""
    round: int = 0
    """Rounds done."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """One per evaluated round."""
    best: Ranks | None = None
    """Ranks at the best validation round so far, in the order of the federation."""
    seconds: float = 0.0
    """Time that the rounds took."""
    compile_seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)
    """Rounds after which the run was cut off and gone on with."""


class Checkpointer:
    """Keeps the course of a run in its directory; a context manager, so that what is being written
    is written to its end."""

    def __init__(self, directory: RunDirectory, simulation: Simulation, setting: dict[str, Any]):
        self._directory, self._trial, self._setting = directory, simulation, setting
        self._checkpoints = Checkpoints(directory.path / FOLDER)
        self._last_time, self._last_round = time.monotonic(), 0

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_) -> None:
        self._checkpoints.close()

    def restore(self) -> RunState | None:
        """The course of the run that the directory holds, if it is to be gone on with; None: it
        begins at its beginning.

        Raises:
            CannotResume: what is there belongs to other settings, data or another version, or is
                damaged; says what.
        """
        directory, simulation = self._directory, self._trial
        if not directory.resume:
            return None
        saved = self._checkpoints.latest(directory.say)
        if saved is None:
            directory.say(f"{directory.path}: has no checkpoint yet, so it begins anew.")
            directory.rewind(0)
            return None
        about, arrays = saved
        self._check(about)
        before = Places(arrays["place"], about["shard"])
        try:
            start, layout = simulation.init(), simulation.layout
            state = on_devices(arrays["state"], before, start, layout, simulation.algorithm)
        except (KeyError, ValueError) as error:
            raise CannotResume(
                f"{self._checkpoints.folder}: does not fit this run ({error}); run again."
            ) from None
        number = self._last_round = about["round"]
        records = directory.rewind(number, about["rho"])
        directory.say(f"{directory.path}: goes on after round {number}.")
        times = about["seconds"], about["compile_seconds"]
        best = Ranks(**arrays["best"])
        return RunState(state, number, records, best, *times, [*about["resumed"], number])

    def keep(self, course: RunState, at_once: bool = False) -> None:
        """Save the course, if it is time to or if it must be `at_once`, in the background.

        Raises:
            UserError: nothing can be written.
        """
        config = self._setting["config"]
        if not config.saves() or course.round == self._last_round:
            return
        every, minutes = config.checkpoint_every, config.checkpoint_minutes
        by_round = every and course.round - self._last_round >= every
        by_time = minutes and time.monotonic() - self._last_time >= 60 * minutes
        if not (at_once or by_round or by_time):
            return
        assert course.best is not None
        places = Places.of(self._trial.layout)
        about = {
            "round": course.round,
            "validation": course.records[-1]["val"][f"hr@{config.top_k}"],
            "seconds": course.seconds,
            "compile_seconds": course.compile_seconds,
            "resumed": course.resumed,
            "rho": "rho" in course.records[-1],
            "shard": places.shard,
            "config": dataclasses.asdict(config),
            "fingerprint": self._setting["federation"].fingerprint,
            "versions": self._setting["versions"],
        }
        best = {name: np.asarray(value) for name, value in course.best._asdict().items()}
        arrays = {"state": on_host(course.state), "best": best, "place": places.place}
        self._directory.flush()
        self._checkpoints.save(Saved(about, arrays))
        self._last_time, self._last_round = time.monotonic(), course.round

    def wait(self) -> None:
        """Until what was to be kept is on disk.

        Raises:
            UserError: it could not be written.
        """
        self._checkpoints.wait()

    def kept(self) -> str:
        """What is on disk, in a sentence; empty if that is nothing."""
        with suppress(UserError):
            self.wait()
        rounds = found(self._checkpoints.folder)
        if not rounds:
            return ""
        return f"The state of round {max(rounds)} is kept in {rounds[max(rounds)]}."

    def _check(self, about: dict[str, Any]) -> None:
        """Refuse a checkpoint of another run."""
        wanted = json.loads(json.dumps(dataclasses.asdict(self._setting["config"])))
        old, new = about["versions"], self._setting["versions"]
        changed = differences(about["config"], wanted, RESUMED_WITH) + differences(
            {"data": about["fingerprint"], "version": old["fedem_jax"]},
            {"data": self._setting["federation"].fingerprint, "version": new["fedem_jax"]},
        )
        if changed:
            raise CannotResume(
                f"{self._checkpoints.folder}: belongs to another run ({'; '.join(changed)}); give "
                "back what it was made with, or run again with another --out."
            )
        if others := differences(old, new):
            self._directory.say(
                f"{self._directory.path}: was begun with {'; '.join(others)}; the last digits of "
                "its figures may differ from those of a run that was not cut off."
            )

"""The state of a run between two segments, and its checkpoints: saved, and restored."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.words import differences
from fedem_jax.core.algorithm import State
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.evaluation.ranking import Ranks
from fedem_jax.evaluation.records import Record, Setting
from fedem_jax.runs.checks import RESUMED_WITH
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.names import CHECKPOINT
from fedem_jax.runs.placement import Places, on_devices, on_host
from fedem_jax.runs.simulation import Simulation
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


class Checkpointer:
    """Saves the state of a run in its directory, and restores it.

    As a context manager it waits at the end for a write in progress.
    """

    def __init__(self, directory: RunDirectory, simulation: Simulation, setting: Setting):
        self._directory, self._simulation, self._setting = directory, simulation, setting
        self._checkpoints = Checkpoints(directory.path / CHECKPOINT)
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
            state = self._placed(arrays, info["shard"])
            ranks: dict[str, Any] = _group(arrays, "best")
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
        """Save the state in the background, if a checkpoint is due or `at_once` is set.

        Raises:
            UserError: it cannot be written.
        """
        config, number = self._setting["config"], run_state.round
        if not config.saves() or number == self._last_round:
            return
        if not (at_once or self._due(config, number)):
            return
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
        arrays: Arrays = {"state": on_host(run_state.state), "best": best, "place": places.place}
        self._directory.flush()
        self._checkpoints.save(Saved(info, arrays))
        self._last_time, self._last_round = time.monotonic(), number

    def wait(self) -> None:
        """Wait until every checkpoint is on disk.

        Raises:
            UserError: a checkpoint could not be written.
        """
        self._checkpoints.wait()

    def describe(self) -> str:
        """A sentence about the latest checkpoint on disk; empty if there is none."""
        with suppress(UserError):
            self.wait()
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

    def _placed(self, arrays: Arrays, shard: int) -> State:
        """The saved state on the devices of this run.

        Raises:
            KeyError, ValueError: the arrays are not those of such a run.
        """
        place, simulation = arrays["place"], self._simulation
        if isinstance(place, dict):
            raise ValueError("place is no array")
        return on_devices(
            _group(arrays, "state"), Places(place, shard), simulation.init(), simulation.layout,
            simulation.algorithm,
        )  # fmt: skip

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


def _group(arrays: Arrays, name: str) -> dict[str, np.ndarray]:
    """The dictionary of arrays under a name.

    Raises:
        KeyError, ValueError: there is none.
    """
    group = arrays[name]
    if not isinstance(group, dict):
        raise ValueError(f"{name} is one array")
    return group

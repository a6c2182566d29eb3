"""The states of a run that are kept: in memory, or in the checkpoints of its directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.core.algorithm import State
from fedem_jax.errors import UserError
from fedem_jax.runs.names import CHECKPOINT
from fedem_jax.runs.placement import Places, on_devices
from fedem_jax.runs.simulation import Simulation
from fedem_jax.storage.checkpoint import Arrays, Damaged, Saved, found, read

Which = str
"""The round of a state: "best" on validation, which the headline reports, or the "last" one."""


class States:
    """The states of a run by round, brought to the devices when they are asked for."""

    def __init__(
        self,
        simulation: Simulation,
        rounds: Mapping[str, int],
        kept: Mapping[int, State] | None = None,
        path: Path | None = None,
    ):
        """
        Args:
            simulation: the method, its data and its devices.
            rounds: the round of each `Which`.
            kept: states in memory by round, as `Simulation.copy` gives them.
            path: the run directory; None: there is none.
        """
        self._simulation, self.rounds, self._kept = simulation, dict(rounds), dict(kept or {})
        self._path = path

    def __getitem__(self, which: Which) -> State:
        """The state of a round, on the devices.

        Raises:
            UserError: `which` is neither "best" nor "last", or that state was not kept.
        """
        if which not in self.rounds:
            raise UserError(f"round: '{which}' is unknown; give 'best' or 'last'.")
        number = self.rounds[which]
        if number in self._kept:
            return self._simulation.restored(self._kept[number])
        if self._path is None:
            raise UserError(
                f"the run kept no state of round {number}; run again with keep='best-and-last'."
            )
        saved = saved_state(self._path, number)
        return placed(self._path, saved, self._simulation)


def saved_state(path: Path, number: int) -> Saved:
    """The checkpoint of a round in a run directory.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    folders = found(path / CHECKPOINT)
    if number not in folders:
        raise UserError(
            f"{path}: holds no state of round {number}; run again, without `--keep none`."
        )
    try:
        return read(folders[number])
    except Damaged as error:
        raise UserError(f"{folders[number]}: is damaged ({error}); run again.") from None


def placed(path: Path, saved: Saved, simulation: Simulation) -> State:
    """A saved state on the devices of a simulation.

    Raises:
        UserError: its arrays are not those of such a simulation.
    """
    try:
        return from_arrays(saved.arrays, saved.about["shard"], simulation)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its parameters do not fit this run ({error}); the method, its sizes, what "
            "clients keep and the version of the program must be the same."
        ) from None


def from_arrays(arrays: Arrays, shard: int, simulation: Simulation) -> State:
    """The arrays of a checkpoint as a state on the devices of a simulation.

    Args:
        arrays: as in the checkpoint.
        shard: places per device when it was saved.
        simulation: the method, its data and its devices.

    Raises:
        KeyError, ValueError: the arrays are not those of such a run.
    """
    place = arrays["place"]
    if isinstance(place, dict):
        raise ValueError("place is no array")
    before = Places(np.array(place), shard)
    return on_devices(
        group(arrays, "state"), before, simulation.init(), simulation.layout, simulation.algorithm
    )


def group(arrays: Arrays, name: str) -> dict[str, Any]:
    """The dictionary of arrays under a name.

    Raises:
        KeyError, ValueError: there is none.
    """
    found_arrays = arrays[name]
    if not isinstance(found_arrays, dict):
        raise ValueError(f"{name} is one array")
    return found_arrays

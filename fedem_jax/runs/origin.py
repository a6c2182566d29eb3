"""The run that another one starts from (warm start)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import State
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import StartedFrom
from fedem_jax.runs.names import CANDIDATES
from fedem_jax.runs.placement import Places, by_name
from fedem_jax.runs.reading import read_run
from fedem_jax.runs.result import Result
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.states import placed, saved_state
from fedem_jax.storage.checkpoint import Saved

IN_MEMORY = "(a run in memory)"
"""What `config.start` says of a run that has no directory."""


class Origin(NamedTuple):
    """The best state of a run, and whose it is."""

    name: str
    method: str
    labels: dict[str, np.ndarray]
    """`user_ids` and `item_ids`."""
    described: StartedFrom
    """For the summary."""
    saved: Callable[[], Saved]
    """The state, as a checkpoint has it."""

    def check(self, config: Config, federation: Federation) -> None:
        """Refuse a run that cannot start from here.

        Raises:
            UserError: it has another method or other labels.
        """
        if config.method != self.method:
            raise UserError(
                f"start: {self.name} is a run of {self.method}, not of {config.method}; give one "
                "of the same method."
            )
        for kind, labels in self.labels.items():
            if not np.array_equal(_text(labels), _text(getattr(federation, kind))):
                raise UserError(
                    f"start: {self.name} has other {kind.removesuffix('_ids')}s than the data of "
                    "this run; give a run on the same users and items."
                )

    def state(self, simulation: Simulation) -> State:
        """The state, on the devices of a simulation.

        Raises:
            UserError: it has other sizes.
        """
        return placed(Path(self.name), self.saved(), simulation)


def origin_of(start: Result | str | Path) -> Origin:
    """The origin that a run or its directory makes.

    Raises:
        UserError: there is no such run, or it kept no state.
    """
    if isinstance(start, Result):
        return _of_result(start)
    path = Path(start)
    config, _, summary = read_run(path)
    number = summary["headline"]["round"]
    try:
        with np.load(path / CANDIDATES, allow_pickle=False) as arrays:
            labels = {name: arrays[name] for name in ("user_ids", "item_ids")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path / CANDIDATES}: cannot be read ({error}); run again.") from None
    described: StartedFrom = {
        "run": str(path), "round": number, "fingerprint": summary["fingerprint"],
    }  # fmt: skip
    return Origin(str(path), config.method, labels, described, lambda: saved_state(path, number))


def name_of(start: Result | str | Path) -> str:
    """What `config.start` says of a run."""
    path = start.path if isinstance(start, Result) else start
    return IN_MEMORY if path is None else str(path)


def _of_result(result: Result) -> Origin:
    federation, summary = result.federation, result.summary

    def saved() -> Saved:
        places = Places.of(result.layout)
        state = by_name(result.states["best"])
        return Saved({"shard": places.shard}, {"state": state, "place": places.place})

    labels = {name: getattr(federation, name) for name in ("user_ids", "item_ids")}
    described: StartedFrom = {
        "run": name_of(result),
        "round": summary["headline"]["round"],
        "fingerprint": summary["fingerprint"],
    }
    return Origin(name_of(result), summary["method"], labels, described, saved)


def _text(labels: Any) -> np.ndarray:
    return np.asarray(labels).astype(str)

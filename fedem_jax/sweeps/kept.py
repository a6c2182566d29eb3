"""The trained models of a sweep: the state of each trial at its best validation round.

OUT/states/<setting>-<seed>/checkpoint/round-000012/      as in the directory of a run
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import State
from fedem_jax.core.layout import Layout
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.exposure import exposure
from fedem_jax.evaluation.metrics import summarise
from fedem_jax.evaluation.ranking import held_out_ranks
from fedem_jax.evaluation.records import PARTS, Record, Summary
from fedem_jax.evaluation.summary import per_client, summarise_run
from fedem_jax.runs.memory import free_memory
from fedem_jax.runs.names import CHECKPOINT
from fedem_jax.runs.placement import Places, by_name
from fedem_jax.runs.result import Result
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.states import States
from fedem_jax.storage.checkpoint import Saved, found, write
from fedem_jax.storage.files import check_room, disk_errors
from fedem_jax.sweeps.results import Curve, TrialId
from fedem_jax.units import in_bytes

REMEDY = "vary less, or leave keep_states out and run the winner with `fj.run`"


class KeptStates:
    """One state for each trial, in a folder or in memory."""

    def __init__(self, out: Path | None):
        """Take the folder of the sweep; None: states stay in memory."""
        self._out = out
        self._in_memory: dict[TrialId, tuple[int, State]] = {}

    def __contains__(self, key: TrialId) -> bool:
        folder = self._folder(key)
        return bool(found(folder / CHECKPOINT)) if folder else key in self._in_memory

    def check_room(self, size: int) -> None:
        """Refuse more bytes than there is room for.

        Raises:
            UserError: they do not fit.
        """
        if self._out:
            check_room(self._out, size, "the states of all trials", REMEDY)
        elif size > (free := free_memory() // 2):
            raise UserError(
                f"keep_states: the states of all trials take {in_bytes(size)}, and "
                f"{in_bytes(free)} of memory may be used; {REMEDY}, or give a folder as `out`."
            )

    def put(self, key: TrialId, round: int, state: State, layout: Layout) -> None:
        """Keep the state of a trial after a round.

        Raises:
            UserError: it cannot be written.
        """
        folder = self._folder(key)
        if folder is None:
            self._in_memory[key] = round, state
            return
        places, unfinished = Places.of(layout), folder.with_name(f"{folder.name}.partial")
        about = {"round": round, "validation": 0.0, "shard": places.shard}
        with disk_errors(folder, "its tables hold what was finished"):
            for each in (unfinished, folder):
                shutil.rmtree(each, ignore_errors=True)
            checkpoint = unfinished / CHECKPOINT / f"round-{round:06}"
            checkpoint.mkdir(parents=True)
            write(checkpoint, Saved(about, {"state": by_name(state), "place": places.place}))
            unfinished.rename(folder)

    def result(
        self, key: TrialId, config: Config, federation: Federation, curve: Curve,
        about: dict[str, Any],
    ) -> Result:  # fmt: skip
        """A trial as the run that it was.

        Args:
            key: the trial.
            config: all its settings.
            federation: its data.
            curve: its results.
            about: `device` and `versions`.

        Raises:
            UserError: its state is not kept.
        """
        k, folder = config.top_k, self._folder(key)
        best = int(curve.values["round"][curve.best(f"val hr@{k}")])
        rounds, kept = {"best": best, "last": curve.rounds}, {}
        if key in self._in_memory:
            number, state = self._in_memory[key]
            kept = {number: state}
        simulation = Simulation(config, federation)
        states = States(simulation, rounds, kept, folder)
        ranks = simulation.rank(states["best"])
        records: list[Any] = [
            _record(simulation, curve, place) for place in range(len(curve.values["round"]))
        ]
        chosen = records[curve.best(f"val hr@{k}")]
        for part in PARTS:
            found_ranks = held_out_ranks(federation, part, getattr(ranks, part))
            chosen[part] = summarise(found_ranks, k) | chosen[part]
        shown = exposure(np.asarray(ranks.listed), federation)
        chosen |= {name: shown[name] for name in ("coverage", "gini", "novelty")}
        clients = per_client(federation, ranks)
        summary: Summary = {
            **summarise_run(config, federation, records, clients),
            "compile_seconds": 0.0,
            "seconds_per_round": curve.seconds / curve.rounds,
            "resumed": [],
            "device": about["device"],
            "versions": about["versions"],
        }
        return Result(simulation, records, summary, states, None, clients)

    def _folder(self, key: TrialId) -> Path | None:
        number, seed = key
        return self._out / "states" / f"{number}-{seed}" if self._out else None


def _record(simulation: Simulation, curve: Curve, place: int) -> Record:
    """What a sweep knows of an evaluated round."""
    record: Any = {part: {} for part in PARTS}
    for name, values in curve.values.items():
        part, _, metric = name.partition(" ")
        if metric:
            record[part][metric] = float(values[place])
    traffic, federation = simulation.algorithm.traffic, simulation.federation
    return record | {
        "round": int(curve.values["round"][place]),
        "loss": float(curve.values["loss"][place]),
        "bytes_up": traffic.up,
        "bytes_down": traffic.down,
        "protocol": federation.protocol.name,
        "fingerprint": federation.fingerprint,
    }

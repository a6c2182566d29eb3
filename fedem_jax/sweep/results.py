"""What is known of the trials of a sweep, and the files that keep it.

sweep.json                   what the sweep is: settings, what is varied, seeds, splits
trials.parquet, trials.csv   a line for each trial: its settings, how it ended, metrics at its best
                             validation round
curves.parquet               a line for each evaluated round of each trial

The tables are written anew, whole or not at all, after every chunk of trials (or, if chunks are
over so soon that it would take more than 1 % of the time, after some), so a sweep may be killed at
any time; trials that are in them are not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.errors import UserError
from fedem_jax.runs.checks import check_untaken
from fedem_jax.storage.files import disk_errors, put
from fedem_jax.sweep.space import Setting, as_text

PLAN, TRIALS, TRIALS_CSV, CURVES = "sweep.json", "trials.parquet", "trials.csv", "curves.parquet"

PLACES, LAST = {"done": 0, "stopped early": 1}, 2
"""Which settings stand first in a ranking, by status; all others are last."""

TrialId = tuple[int, int]
"""Number of the setting, and seed: what a trial is known by."""


class Curve(NamedTuple):
    """What came of one trial, R evaluated rounds."""

    values: dict[str, np.ndarray]
    """[R] each: `round`, `loss` and metrics such as `val hr@10`, up to where all was finite."""
    diverged: int
    """Evaluated round after which a loss or a score was not finite; 0: none."""
    seconds: float
    """Its share of the time of the chunks that it was in, compiling apart."""

    @property
    def rounds(self) -> int:
        """Rounds that it was trained, as far as they count."""
        return self.diverged or int(self.values["round"][-1])

    def best(self, metric: str, rounds: int = 0) -> int:
        """Index of the round with the highest value; of equals, the latest, as in a run.

        Args:
            metric: such as `val hr@10`.
            rounds: those after are not looked at; 0: all are.
        """
        values = self.values[metric]
        if rounds:
            values = values[self.values["round"] <= rounds]
        return len(values) - 1 - int(np.argmax(values[::-1]))

    def then(self, later: Curve) -> Curve:
        """The same trial with the rounds that it went on for."""
        joined = {name: np.append(each, later.values[name]) for name, each in self.values.items()}
        return Curve(joined, later.diverged, self.seconds + later.seconds)


class TrialResults:
    """Curves by setting and seed; a mapping that is kept in a folder, if it has one."""

    def __init__(self, names: Sequence[str], k: int, rounds: int, select: str):
        """
        Args:
            names: of the varied settings.
            k: of the metrics.
            rounds: of a trial that runs to its end.
            select: `val` or `val_full`, which rounds are chosen by.
        """
        self.names, self.rounds, self.k = list(names), rounds, k
        self.metric, self.second = f"{select} hr@{k}", f"{select} ndcg@{k}"
        self.settings: list[Setting] = []
        self.curves: dict[TrialId, Curve] = {}
        self._directory: Path | None = None
        self._plan: dict[str, Any] = {}
        self._saved, self._cost = 0.0, 0.0  # when it was written last, and what that took, seconds

    def number_of(self, setting: Setting) -> int:
        """The number of a setting, which it keeps from now on."""
        if setting not in self.settings:
            self.settings.append(setting)
        return self.settings.index(setting)

    def value(self, number: int, seeds: Sequence[int], rounds: int) -> tuple[float, float]:
        """How good a setting is after so many rounds: the mean over the seeds of what each trial is
        chosen by, and of what decides between equals; -inf if a trial diverged or is missing."""
        found = []
        for seed in seeds:
            curve = self.curves.get((number, seed))
            if curve is None or curve.diverged or curve.rounds < rounds:
                return -np.inf, -np.inf
            best = curve.best(self.metric, rounds)
            found.append([curve.values[name][best] for name in (self.metric, self.second)])
        first, second = np.mean(found, axis=0).tolist()
        return first, second

    def trials(self) -> pd.DataFrame:
        """One row per trial, by setting and seed."""
        rows = []
        for (number, seed), curve in sorted(self.curves.items()):
            row: dict[str, Any] = {"setting": number, "seed": seed, **self.settings[number]}
            row["status"] = self._status(curve)
            row["rounds"], row["seconds"] = curve.rounds, curve.seconds
            some = len(curve.values["round"]) > 0
            best = curve.best(self.metric) if some else 0
            values = {name: each[best] if some else np.nan for name, each in curve.values.items()}
            row |= {"best_round": values.pop("round")} | values
            rows.append(row)
        return pd.DataFrame(rows)

    def ranking(self, seeds: Sequence[int]) -> pd.DataFrame:
        """One row per setting, the best first: those that ran to their end with all seeds, by
        `value`; then those that were stopped early, the longest first; then the others.

        `status` is `done`, or that of its worst trial; then mean and sample standard deviation over
        the seeds of each metric at the trial's best validation round, as `test hr@10` and
        `test hr@10 sd`, which is NaN for a single seed.
        """
        trials, rows = self.trials(), []
        if trials.empty:
            return trials
        trials = trials[trials["seed"].isin(seeds)]
        metrics = [name for name in trials.columns if "@" in name]
        for number, part in trials.groupby("setting"):
            worst = max(part["status"], key=lambda status: PLACES.get(status, LAST))
            status = "unfinished" if len(part) < len(seeds) and worst == "done" else worst
            row = {"setting": number, **self.settings[int(str(number))], "status": status}
            row["rounds"] = int(part["rounds"].min())
            for name in metrics:
                row |= {name: part[name].mean(skipna=False), f"{name} sd": part[name].std(ddof=1)}
            rows.append(row)
        ranked = pd.DataFrame(rows)
        ranked["order"] = ranked["status"].map(PLACES).fillna(LAST)
        by = ["order", "rounds", self.metric, self.second, "setting"]
        ranked = ranked.sort_values(by, ascending=[True, False, False, False, True])
        return ranked.drop(columns="order").reset_index(drop=True)

    def curve_table(self) -> pd.DataFrame:
        """One row per evaluated round of each trial."""
        parts = [
            pd.DataFrame({"setting": number, "seed": seed, **curve.values})
            for (number, seed), curve in sorted(self.curves.items())
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _status(self, curve: Curve) -> str:
        if curve.diverged:
            return f"diverged at round {curve.diverged}"
        return "done" if curve.rounds >= self.rounds else "stopped early"

    def keep_in(self, directory: Path, plan: dict[str, Any], may_grow: Sequence[str]) -> None:
        """Keep everything in this folder from now on, and take up what it holds.

        Args:
            directory: made if need be.
            plan: what decides the trials, as JSON holds it.
            may_grow: entries that may differ from those of the folder.

        Raises:
            UserError: the folder holds another sweep (says what differs), or something else; a file
                is broken; nothing can be written.
        """
        self._plan = plan
        if (directory / PLAN).exists():
            held = _json(directory / PLAN)
            _refuse_other(directory, held.get("plan", {}), plan, may_grow)
            self.settings = [
                {name: tuple(v) if isinstance(v, list) else v for name, v in setting.items()}
                for setting in held.get("settings", [])
            ]
            self._take_up(directory)
        else:
            check_untaken(directory)
        with disk_errors(directory, "give another --out"):
            directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.save()

    def save(self, *, sparing: bool = False) -> None:
        """Write everything, if there is a folder.

        Args:
            sparing: not yet, if that would take more than 1 % of the time since the last call.

        Raises:
            UserError: it cannot be written; what was written before stands.
        """
        begun = time.perf_counter()
        if self._directory is None or (sparing and begun - self._saved < 100 * self._cost):
            return
        held = json.dumps({"plan": self._plan, "settings": self.settings}, indent=2) + "\n"
        with disk_errors(self._directory, "its tables hold what was finished before"):
            put(self._directory / PLAN, lambda file: file.write_text(held))
            if self.curves:
                trials = self.trials()
                for name in self.names:
                    trials[name] = trials[name].map(_portable)
                put(self._directory / CURVES, self.curve_table().to_parquet)
                put(self._directory / TRIALS_CSV, partial(trials.to_csv, index=False))
                put(self._directory / TRIALS, trials.to_parquet)
        self._saved = time.perf_counter()
        self._cost = self._saved - begun if self.curves else 0.0

    def _take_up(self, directory: Path) -> None:
        """Read the curves of all trials that both tables hold."""
        if not (directory / TRIALS).exists():
            return
        trials, curves = _table(directory / TRIALS), _table(directory / CURVES)
        names = [name for name in curves.columns if name not in ("setting", "seed")]
        rows = dict(iter(curves.groupby(["setting", "seed"])))
        for row in trials.to_dict("records"):
            key = (int(row["setting"]), int(row["seed"]))
            part = rows.get(key, curves.iloc[:0])
            lost = int(row["rounds"]) if row["status"].startswith("diverged") else 0
            values = {name: part[name].to_numpy() for name in names}
            self.curves[key] = Curve(values, lost, float(row["seconds"]))


def _refuse_other(
    directory: Path, held: dict[str, Any], plan: dict[str, Any], may_grow: Sequence[str]
) -> None:
    old, new = flat(held), flat(json.loads(json.dumps(plan)))
    changed = [
        f"{name} {old.get(name)!r}, now {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name) and name not in may_grow
        # a seed more or less is told by `seeds`
        if not (name.startswith("splits ") and (name not in old or name not in new))
    ]
    if changed:
        raise UserError(
            f"{directory}: holds another sweep ({'; '.join(changed)}); give another --out or "
            "remove that folder."
        )


def flat(plan: dict[str, Any]) -> dict[str, Any]:
    """Entries of a plan, with those of the dictionaries in it named `outer inner`."""
    found: dict[str, Any] = {}
    for name, value in plan.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{name} {each}".rstrip(): entry for each, entry in inner.items()}
    return found


def _portable(value: Any) -> Any:
    """A value of a setting as a table can hold it."""
    return as_text(value) if isinstance(value, tuple) else value


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: describes no sweep; remove the folder.")
    return found


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder.") from None

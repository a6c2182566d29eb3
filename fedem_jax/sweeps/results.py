"""The results of the trials of a sweep, and their files.

sweep.json                   the sweep: settings, what is varied, seeds, splits
trials.parquet, trials.csv   a row for each trial: its settings, its status, metrics at its best
                             validation round
curves.parquet               a row for each evaluated round of each trial
about.json                   data, levels, device and versions, once the sweep has ended

The tables are rewritten after every chunk of trials, whole or not at all. With short chunks they
are written less often, so that writing takes at most 1 % of the time. So a sweep may be killed at
any time. Trials in the tables do not run again.
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
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.plans import PLAN, check_same, plan_in
from fedem_jax.sweeps.space import Setting, as_text

TRIALS, TRIALS_CSV, CURVES = "trials.parquet", "trials.csv", "curves.parquet"

PLACES, LAST = {"done": 0, "stopped early": 1}, 2
"""Order of the settings in a ranking, by status; all others come last."""

TrialId = tuple[int, int]
"""A trial: the number of its setting, and its seed."""


class Curve(NamedTuple):
    """The results of one trial over R evaluated rounds."""

    values: dict[str, np.ndarray]
    """[R] each: `round`, `loss` and metrics such as `val hr@10`, as long as all are finite."""
    diverged: int
    """First evaluated round with a loss or score that is not finite; 0: none."""
    seconds: float
    """The trial's share of the time of its chunks, without compiling."""

    @property
    def rounds(self) -> int:
        """Rounds that the trial was trained, up to its divergence."""
        return self.diverged or int(self.values["round"][-1])

    def best(self, metric: str, rounds: int = 0) -> int:
        """Index of the round with the highest value up to round `rounds`; 0: up to the last.

        It is the latest of several such rounds, as in a run.
        """
        values = self.values[metric][self.values["round"] <= (rounds or np.inf)]
        return len(values) - 1 - int(np.argmax(values[::-1]))

    def then(self, later: Curve) -> Curve:
        """The same trial with the curve of its later rounds appended."""
        joined = {name: np.append(each, later.values[name]) for name, each in self.values.items()}
        return Curve(joined, later.diverged, self.seconds + later.seconds)


class TrialResults:
    """Curves by setting and seed, optionally stored in a folder."""

    def __init__(self, sweep: Sweep):
        self.names = [values.name for values in sweep.varied]
        self.rounds, self.k = sweep.config.rounds, sweep.config.top_k
        self.metric, self.second = f"{sweep.select} hr@{self.k}", f"{sweep.select} ndcg@{self.k}"
        self.settings: list[Setting] = []
        self.curves: dict[TrialId, Curve] = {}
        self._directory: Path | None = None
        self._plan: dict[str, Any] = {}
        self._saved, self._cost = 0.0, 0.0  # time of the last writing, and its duration, seconds

    def number_of(self, setting: Setting) -> int:
        """The number of a setting. A new setting gets the next number."""
        if setting not in self.settings:
            self.settings.append(setting)
        return self.settings.index(setting)

    def value(self, number: int, seeds: Sequence[int], rounds: int) -> tuple[float, float]:
        """HR@K and NDCG@K of a setting, best within `rounds`, as means over the seeds.

        Both are -inf if a trial diverged or is missing.
        """
        values = []
        for seed in seeds:
            curve = self.curves.get((number, seed))
            if curve is None or curve.diverged or curve.rounds < rounds:
                return -np.inf, -np.inf
            best = curve.best(self.metric, rounds)
            values.append([curve.values[name][best] for name in (self.metric, self.second)])
        first, second = np.mean(values, axis=0).tolist()
        return first, second

    def trials(self) -> pd.DataFrame:
        """One row per trial, by setting and seed."""
        rows = []
        for (number, seed), curve in sorted(self.curves.items()):
            row: dict[str, Any] = {"setting": number, "seed": seed, **self.settings[number]}
            row["status"] = "done" if curve.rounds >= self.rounds else "stopped early"
            if curve.diverged:
                row["status"] = f"diverged at round {curve.diverged}"
            row["rounds"], row["seconds"] = curve.rounds, curve.seconds
            finite = len(curve.values["round"]) > 0
            best = curve.best(self.metric) if finite else 0
            values = {name: each[best] if finite else np.nan for name, each in curve.values.items()}
            row |= {"best_round": values.pop("round"), "train loss": values.pop("loss")} | values
            rows.append(row)
        return pd.DataFrame(rows)

    def ranking(self, seeds: Sequence[int]) -> pd.DataFrame:
        """One row per setting, the best first.

        Complete settings come first, by `value`. Then follow those that were stopped early, the
        longest first; then the others. `status` is that of the setting's worst trial, or
        `unfinished`. Each metric has its mean over the seeds, at the best validation round of each
        trial, as `test hr@10`. Its standard deviation is `test hr@10 sd`, NaN for a single seed.
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

    def take(self, other: TrialResults) -> None:
        """Add the settings of other results, in their order, and their trials. Of a trial in both,
        the results here stay."""
        numbers = [self.number_of(setting) for setting in other.settings]
        for (number, seed), curve in other.curves.items():
            self.curves.setdefault((numbers[number], seed), curve)

    def curve_table(self) -> pd.DataFrame:
        """One row per evaluated round of each trial."""
        parts = [
            pd.DataFrame({"setting": number, "seed": seed, **curve.values})
            for (number, seed), curve in sorted(self.curves.items())
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def keep_in(self, directory: Path, plan: dict[str, Any], may_grow: Sequence[str]) -> None:
        """Read the results that a folder holds, and store all results there from now on.

        Args:
            directory: made if missing.
            plan: all that the trials depend on, for JSON.
            may_grow: entries of the plan that may differ from those of the folder.

        Raises:
            UserError: the folder holds another sweep (the message names the differences) or a run;
                a file is broken; or nothing can be written.
        """
        self._plan = plan
        if (directory / PLAN).exists():
            check_same(directory, plan, may_grow)
            self.read(directory)
        else:
            check_untaken(directory)
        with disk_errors(directory, "give another --out"):
            directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.save()

    def save(self, *, sparing: bool = False) -> None:
        """Write everything, if there is a folder.

        Args:
            sparing: skip it if writing would take more than 1 % of the time since the last one.

        Raises:
            UserError: it cannot be written; the earlier files are kept.
        """
        begun = time.perf_counter()
        if self._directory is None or (sparing and begun - self._saved < 100 * self._cost):
            return
        text = json.dumps({"plan": self._plan, "settings": self.settings}, indent=2) + "\n"
        with disk_errors(self._directory, "its tables hold what was finished before"):
            put(self._directory / PLAN, lambda file: file.write_text(text))
            if self.curves:
                trials = self.trials()
                for name in self.names:
                    trials[name] = trials[name].map(
                        lambda value: as_text(value) if isinstance(value, tuple) else value
                    )
                put(self._directory / CURVES, self.curve_table().to_parquet)
                put(self._directory / TRIALS_CSV, partial(trials.to_csv, index=False))
                put(self._directory / TRIALS, trials.to_parquet)
        self._saved = time.perf_counter()
        self._cost = self._saved - begun if self.curves else 0.0

    def read(self, directory: Path) -> None:
        """Read the settings and the curves of all trials in the tables of a folder.

        Raises:
            UserError: a file is broken.
        """
        self.settings = [
            {name: tuple(v) if isinstance(v, list) else v for name, v in setting.items()}
            for setting in plan_in(directory).get("settings", [])
        ]
        if not (directory / TRIALS).exists():
            return
        trials, curves = _table(directory / TRIALS), _table(directory / CURVES)
        names = [name for name in curves.columns if name not in ("setting", "seed")]
        rows = dict(iter(curves.groupby(["setting", "seed"])))
        for row in trials.to_dict("records"):
            key = (int(row["setting"]), int(row["seed"]))
            part = rows.get(key, curves.iloc[:0])
            diverged = int(row["rounds"]) if row["status"].startswith("diverged") else 0
            values = {name: part[name].to_numpy() for name in names}
            self.curves[key] = Curve(values, diverged, float(row["seconds"]))


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder.") from None

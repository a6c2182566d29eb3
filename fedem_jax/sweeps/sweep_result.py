"""`SweepResult`: what a sweep returns, and what was read back of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.registry import settings_of
from fedem_jax.config.values import from_data
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.records import Metrics, TestMetrics
from fedem_jax.evaluation.summary import chance
from fedem_jax.higher import higher
from fedem_jax.runs.result import Result
from fedem_jax.storage.files import disk_errors, parse, put, read
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.kept import KeptStates
from fedem_jax.sweeps.plans import ABOUT, fingerprint, plan_in
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.space import space


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep."""

    sweep: Sweep
    trials: pd.DataFrame
    """One row per trial: setting, seed, varied values, `status`, rounds, and the metrics at its
    best validation round."""
    curves: pd.DataFrame
    """One row per evaluated round of each trial."""
    settings: pd.DataFrame
    """One row per setting, the best first: mean and standard deviation over the seeds."""
    best: Config
    """The best setting with the first seed; of a shard, the best of its part."""
    about: dict[str, Any]
    """`fingerprint` of the plan; the data: `dataset`, `clients`, `items`, `protocol`, `splits` by
    seed, levels of `chance` and of `popularity` (its mean over the seeds); `device` and `versions`;
    `seconds` of this call: in compiled programs (`running`), `compiling`, and the rest (`host`);
    `ended_early`, why its watcher ended it, if it did."""
    _model: Callable[[int, int], Result] | None = field(default=None, repr=False)
    """Gives the trial of a setting and seed, if their models were kept."""

    def __repr__(self) -> str:
        winner, metric = self.table.iloc[0], self.sweep.metric
        values = ", ".join(f"{each.name}={winner[each.name]}" for each in self.sweep.varied)
        part = f", shard {self.sweep.shard}" if self.sweep.shard else ""
        return (
            f"<SweepResult: {self.sweep.config.method} on {self.about['dataset']}, "
            f"{self.about['protocol']}{part}: {len(self.trials)} trials of {len(self.table)} "
            f"settings; best by {metric} {winner[metric]:.4f}: {values}>"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row per setting, the best first."""
        return self.settings

    def run(self, setting: int | None = None, seed: int | None = None) -> Result:
        """A trial as `fedem_jax.run` would return it, with its model at its best validation round.

        Its records hold HR@K and NDCG@K alone, but for that round; the last state is not kept.

        Args:
            setting: its number in `trials` and `table`; None: the winner.
            seed: its seed; None: the first one.

        Raises:
            UserError: the sweep ran without `keep_states`, there is no such trial, or it diverged.
        """
        setting = int(self.settings["setting"].iloc[0]) if setting is None else setting
        seed = self.sweep.seeds[0] if seed is None else seed
        if self._model is None:
            raise UserError("run: no models were kept; run the sweep with keep_states=True.")
        row = self.trials[(self.trials["setting"] == setting) & (self.trials["seed"] == seed)]
        if row.empty or row["status"].iloc[0] != "done":
            status = "is not in this sweep" if row.empty else row["status"].iloc[0]
            raise UserError(f"run: setting {setting} with seed {seed} has no model: it {status}.")
        return self._model(setting, seed)

    def plot(self, path: str | Path) -> Path:
        """Draw the deciding metric against each varied setting into a file, PNG or any format that
        Matplotlib knows."""
        higher("sweeps.charts").effects_chart(self, path)
        return Path(path)


def open_sweep(directory: Path) -> SweepResult:
    """Read a finished sweep back from its folder.

    Raises:
        UserError: a file is missing or broken, or the sweep has not ended.
    """
    about = parse(directory / ABOUT, read(directory / ABOUT))
    plan = plan_in(directory)["plan"]
    kind = settings_of(plan["config"]["method"])
    values = {name: from_data(kind, name, value) for name, value in plan["config"].items()}
    names = ("search", "trials", "search_seed", "select", "halving")
    sweep = Sweep(
        config=kind(**values),
        varied=space(kind, plan["vary"]),
        seeds=tuple(plan["seeds"]),
        **{name: plan[name] for name in names},
    )
    results = TrialResults(sweep)
    results.read(directory)
    return _result(sweep, results, about)


def end(
    sweep: Sweep,
    federations: dict[int, Federation],
    results: TrialResults,
    plan: dict[str, Any],
    about: dict[str, Any],
    out: Path | None,
    kept: KeptStates | None = None,
) -> SweepResult:
    """Rank what a sweep found, and write what it is about.

    Args:
        sweep: the description.
        federations: the data by seed.
        results: of all trials.
        plan: all that the trials depend on.
        about: where and how they ran.
        out: folder that gets `about.json`; None: none.
        kept: the states of all trials; None: they were not kept.

    Raises:
        UserError: no setting stayed finite, or the file cannot be written.
    """
    federation, k = federations[sweep.seeds[0]], sweep.config.top_k
    about = {
        "fingerprint": fingerprint(plan),
        "dataset": federation.name,
        "clients": federation.num_clients,
        "items": federation.num_items,
        "protocol": federation.protocol.name,
        "splits": plan["splits"],
        "chance": chance(federation, k),
        "popularity": _mean_popularity(list(federations.values()), k),
        **about,
    }
    result = _result(sweep, results, about)
    if not sweep.shard and result.settings["status"].iloc[0] != "done":
        if "ended_early" in about:
            raise UserError(
                f"sweep: ended early ({about['ended_early']}) before a setting had all its seeds; "
                "let it run longer."
            )
        raise UserError(
            "sweep: no setting stayed finite with every seed up to its last round; try smaller "
            "step sizes."
        )
    if out and not (sweep.shard and "ended_early" in about):
        with disk_errors(out, "its tables hold what was finished"):
            put(out / ABOUT, lambda file: file.write_text(json.dumps(about, indent=2) + "\n"))
    if kept is None:
        return result

    def model(setting: int, seed: int) -> Result:
        config = sweep.config_of(results.settings[setting], seed)
        curve = results.curves[setting, seed]
        return kept.result((setting, seed), config, federations[seed], curve, about)

    return replace(result, _model=model)


def _result(sweep: Sweep, results: TrialResults, about: dict[str, Any]) -> SweepResult:
    ranked = results.ranking(sweep.seeds)
    best = sweep.config_of(results.settings[ranked["setting"].iloc[0]], sweep.seeds[0])
    return SweepResult(
        sweep, results.trials(), results.curve_table(), ranked, best=best, about=about
    )


def _mean_popularity(federations: Sequence[Federation], k: int) -> TestMetrics:
    """Metrics of a ranking by popularity, averaged over splits."""
    each = [popularity(federation, k) for federation in federations]

    def mean(part: Literal["test", "test_full"]) -> Metrics:
        return {name: float(np.mean([of[part][name] for of in each])) for name in each[0][part]}

    return {"test": mean("test"), "test_full": mean("test_full")}

"""Sweeps: many trials of one method on one federation, stacked on the accelerator.

    setting:  one value for each varied setting          trial:  a setting with one seed
    shape:    trials of one compiled program             chunk:  trials of one call of it

The best setting is the one with the highest mean validation metric over its seeds. Test metrics
choose nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.registry import settings_of
from fedem_jax.config.values import from_data, whole
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import UserError
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.records import Metrics, TestMetrics
from fedem_jax.evaluation.summary import chance
from fedem_jax.higher import higher
from fedem_jax.runs.simulation import check_list, device_name, versions
from fedem_jax.storage.files import disk_errors, parse, put, read
from fedem_jax.storage.lock import exclusive
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.results import ABOUT, TrialResults, plan_in
from fedem_jax.sweeps.runner import Runner, Watcher
from fedem_jax.sweeps.search import batches
from fedem_jax.sweeps.space import space

Whole = float | np.number
"""A whole number of Python or NumPy."""


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
    """The best setting with the first seed."""
    about: dict[str, Any]
    """`fingerprint` of the plan; the data: `dataset`, `clients`, `items`, `protocol`, `splits` by
    seed, levels of `chance` and of `popularity` (its mean over the seeds); `device` and `versions`;
    `seconds` of this call: in compiled programs (`running`), `compiling`, and the rest (`host`)."""

    def __repr__(self) -> str:
        winner, metric = self.table.iloc[0], self.sweep.metric
        values = ", ".join(f"{each.name}={winner[each.name]}" for each in self.sweep.varied)
        return (
            f"<SweepResult: {self.sweep.config.method} on {self.about['dataset']}, "
            f"{self.about['protocol']}: {len(self.trials)} trials of {len(self.table)} settings; "
            f"best by {metric} {winner[metric]:.4f}: {values}>"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row per setting, the best first."""
        return self.settings

    def plot(self, path: str | Path) -> Path:
        """Draw the deciding metric against each varied setting into a file, PNG or any format that
        Matplotlib knows."""
        higher("sweeps.charts").effects_chart(self, path)
        return Path(path)


def sweep(
    config: Config,
    vary: Mapping[str, Any] | Sequence[str] = (),
    federation: Federation | None = None,
    *,
    seeds: Whole | Iterable[Whole] = 1,
    space_file: str | Path = "",
    search: str = "grid",
    trials: Whole = 0,
    search_seed: Whole = 0,
    select: str = "val",
    halving: Whole = 0,
    out: str | Path = "",
    width: Whole = 0,
    chunk: Whole = 0,
    watch: Watcher | None = None,
) -> SweepResult:
    """Run many trials of a method and find its best setting by validation.

    Args:
        config: settings that all trials share.
        vary: `FIELD=VALUES`, or values by name of the field, as in `fedem_jax.sweeps.space`.
        federation: the data. Its split is then the same for all seeds. None: what `config` names,
            which each seed splits anew.
        seeds: seeds of every setting; a number n stands for 0 ... n - 1.
        space_file: JSON or TOML file with further values.
        search: `grid`, `random` or `optuna`.
        trials: number of settings to draw or to ask Optuna for.
        search_seed: seed of the search.
        select: `val` or `val_full`, the ranking that decides.
        halving: only the best 1/`halving` of the settings run on after each step; 0: all.
        out: folder that stores finished trials, which are not run again; "": none.
        width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
        chunk: trials of one call; 0: as many as run side by side.
        watch: follows the sweep.

    Raises:
        UserError: settings that exclude each other or do not fit into memory, unusable data, a
            folder that holds another sweep or is in use, or no setting that stayed finite.

    Examples:
        >>> config = fj.preset("released", method="fedmf", rounds=1, dim=4, size_classes=1)
        >>> result = fj.sweep(config, {"lr_embedding": [0.1, 1.0]}, seeds=2)
        >>> len(result.trials), len(result.table)
        (4, 2)
        >>> result.best.lr_embedding in (0.1, 1.0)
        True
    """
    each = seeds if isinstance(seeds, Iterable) else range(whole("seeds", seeds))
    described = Sweep(
        config=config,
        varied=space(type(config), vary, space_file),
        seeds=tuple(whole("seeds", seed) for seed in each),
        search=search,
        trials=whole("trials", trials),
        search_seed=whole("search_seed", search_seed),
        select=select,
        halving=whole("halving", halving),
    )
    width, chunk = whole("width", width), whole("chunk", chunk)
    return run_sweep(described, out, width=width, chunk=chunk, watch=watch, federation=federation)


def run_sweep(
    sweep: Sweep, out: str | Path = "", *, width: int = 0, chunk: int = 0,
    watch: Watcher | None = None, federation: Federation | None = None,
) -> SweepResult:  # fmt: skip
    """Run a sweep from its description.

    Args:
        sweep: the description.
        out: folder that stores finished trials, which are not run again; "": none.
        width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
        chunk: trials of one call; 0: as many as run side by side.
        watch: follows the sweep.
        federation: the data, as for `sweep`.

    Raises:
        UserError: as for the function `sweep`.
    """
    begun, config = time.perf_counter(), sweep.config
    federations = {
        seed: federation or federation_of(dataclasses.replace(config, seed=seed))
        for seed in sweep.seeds
    }
    federation = federations[sweep.seeds[0]]
    check_list(config, federation)
    names = [values.name for values in sweep.varied]
    results = TrialResults(names, config.top_k, config.rounds, sweep.select)
    plan = sweep.plan({seed: each.fingerprint for seed, each in federations.items()})
    with exclusive(Path(out)) if out else nullcontext():
        if out:
            results.keep_in(Path(out), plan, sweep.may_grow())
        runner = Runner(sweep, federations, results, width=width, chunk=chunk, watch=watch)
        at_once = runner.at_once if sweep.search == "optuna" else 1
        try:
            for batch in batches(sweep, results, at_once):
                runner.run(batch)
        finally:
            results.save()
    ranked = results.ranking(sweep.seeds)
    if ranked.empty or ranked["status"].iloc[0] != "done":
        raise UserError(
            "sweep: no setting stayed finite with every seed up to its last round; try smaller "
            "step sizes."
        )
    best = sweep.config_of(results.settings[ranked["setting"].iloc[0]], sweep.seeds[0])
    tables = (results.trials(), results.curve_table(), ranked)
    running, compiling = runner.seconds
    about = {
        "fingerprint": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16],
        "dataset": federation.name,
        "clients": federation.num_clients,
        "items": federation.num_items,
        "protocol": federation.protocol.name,
        "splits": plan["splits"],
        "chance": chance(federation, config.top_k),
        "popularity": _mean_popularity(list(federations.values()), config.top_k),
        "device": device_name(),
        "versions": versions(),
        "seconds": {
            "running": running,
            "compiling": compiling,
            "host": time.perf_counter() - begun - running - compiling,
        },
    }
    if out:
        with disk_errors(Path(out), "its tables hold what was finished"):
            put(Path(out) / ABOUT, lambda file: file.write_text(json.dumps(about, indent=2) + "\n"))
    return SweepResult(sweep, *tables, best=best, about=about)


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
    config = sweep.config
    varied = [values.name for values in sweep.varied]
    results = TrialResults(varied, config.top_k, config.rounds, sweep.select)
    results.read(directory)
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

"""Sweeps: many trials of one method on one federation, stacked on the accelerator.

    setting:  one value for each varied setting          trial:  a setting with one seed
    shape:    trials of one compiled program             chunk:  trials of one call of it

The best setting is the one with the highest mean validation metric over its seeds; its test metrics
are looked at once, at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import UserError
from fedem_jax.evaluation.summary import chance
from fedem_jax.runs.simulation import check_list, device_name, versions
from fedem_jax.storage.lock import exclusive
from fedem_jax.sweep.description import Sweep
from fedem_jax.sweep.results import TrialResults
from fedem_jax.sweep.runner import Runner, Watcher
from fedem_jax.sweep.search import batches
from fedem_jax.sweep.space import space


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep."""

    sweep: Sweep
    trials: pd.DataFrame
    """One row per trial: setting, seed, varied values, `status`, rounds, and at its best validation
    round the metrics of validation and test."""
    curves: pd.DataFrame
    """One row per evaluated round of each trial."""
    settings: pd.DataFrame
    """One row per setting, the best first: mean and standard deviation over the seeds."""
    best: Config
    """The best setting with the first seed."""
    about: dict[str, Any]
    """`fingerprint` of what decides the trials; the data: `dataset`, `clients`, `items`,
    `protocol`, `splits` by seed, `chance` levels; `device` and `versions`; `seconds` of this call:
    those of compiled programs (`running`), of `compiling`, and all the rest (`host`)."""


def sweep(
    config: Config,
    vary: Mapping[str, Any] | Sequence[str] = (),
    *,
    seeds: int | Sequence[int] = 1,
    space_file: str | Path = "",
    search: str = "grid",
    trials: int = 0,
    search_seed: int = 0,
    select: str = "val",
    halving: int = 0,
    out: str | Path = "",
    width: int = 0,
    chunk: int = 0,
    watch: Watcher | None = None,
) -> SweepResult:
    """Run many trials of a method and find its best setting by validation.

    Args:
        config: settings that all trials share.
        vary: `FIELD=VALUES`, or values by name of the field, as `fedem_jax.sweep.space` has them.
        seeds: with which every setting is run; a number n stands for 0 ... n - 1.
        space_file: JSON or TOML file that names values, too.
        search: `grid`, `random` or `optuna`.
        trials: settings to draw or to ask for.
        search_seed: of the search.
        select: `val` or `val_full`, which HR@K decides.
        halving: let only the best 1/`halving` of the settings go on after some rounds; 0: all.
        out: folder that keeps the trials as they finish; what it holds is not run again; "": none.
        width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
        chunk: trials of one call; 0: as many as are side by side.
        watch: told of what is to come, and of every chunk.

    Raises:
        UserError: settings that do not go together or do not fit into memory, unusable data, a
            folder with another sweep or another process at work in it, or no trial that stayed
            finite.
    """
    wanted = Sweep(
        config=config,
        varied=space(type(config), vary, space_file),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        search=search,
        trials=trials,
        search_seed=search_seed,
        select=select,
        halving=halving,
    )
    return run_sweep(wanted, out, width=width, chunk=chunk, watch=watch)


def run_sweep(
    wanted: Sweep, out: str | Path = "", *, width: int = 0, chunk: int = 0,
    watch: Watcher | None = None,
) -> SweepResult:  # fmt: skip
    """As `sweep`, for what is described already."""

    begun, config = time.perf_counter(), wanted.config
    federations = {
        seed: federation_of(dataclasses.replace(config, seed=seed)) for seed in wanted.seeds
    }
    check_list(config, federations[wanted.seeds[0]])
    names = [values.name for values in wanted.varied]
    ledger = TrialResults(names, config.top_k, config.rounds, wanted.select)
    plan = wanted.plan({seed: each.fingerprint for seed, each in federations.items()})
    with exclusive(Path(out)) if out else nullcontext():
        if out:
            ledger.keep_in(Path(out), plan, wanted.may_grow())
        runner = Runner(wanted, federations, ledger, width=width, chunk=chunk, watch=watch)
        at_once = runner.at_once if wanted.search == "optuna" else 1
        try:
            for batch in batches(wanted, ledger, at_once):
                runner.run(batch)
        finally:
            ledger.save()
    ranked = ledger.ranking(wanted.seeds)
    if ranked.empty or ranked["status"].iloc[0] != "done":
        raise UserError(
            "sweep: no setting stayed finite with every seed up to its last round; try smaller "
            "step sizes."
        )
    best = wanted.config_of(ledger.settings[ranked["setting"].iloc[0]], wanted.seeds[0])
    tables = (ledger.trials(), ledger.curve_table(), ranked)
    running, compiling = runner.seconds
    federation = federations[wanted.seeds[0]]
    about = {
        "fingerprint": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16],
        "dataset": federation.name,
        "clients": federation.num_clients,
        "items": federation.num_items,
        "protocol": federation.protocol.name,
        "splits": plan["splits"],
        "chance": chance(federation, config.top_k),
        "device": device_name(),
        "versions": versions(),
        "seconds": {
            "running": running,
            "compiling": compiling,
            "host": time.perf_counter() - begun - running - compiling,
        },
    }
    return SweepResult(wanted, *tables, best=best, about=about)

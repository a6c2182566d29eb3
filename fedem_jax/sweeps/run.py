"""Sweeps: many trials of one method on one federation, stacked on the accelerator.

    setting:  one value for each varied setting          trial:  a setting with one seed
    shape:    trials of one compiled program             chunk:  trials of one call of it

The best setting is the one with the highest mean validation metric over its seeds. Test metrics
choose nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.values import whole
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import check_list, device_name, versions
from fedem_jax.storage.lock import exclusive
from fedem_jax.sweeps.collect import check_shards, gather
from fedem_jax.sweeps.description import HALVING, Sweep
from fedem_jax.sweeps.kept import KeptStates
from fedem_jax.sweeps.plans import fingerprint
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.runner import Runner, Watcher, arguments
from fedem_jax.sweeps.search import batches
from fedem_jax.sweeps.shards import Shard
from fedem_jax.sweeps.space import space
from fedem_jax.sweeps.sweep_result import SweepResult, end

Whole = float | np.number
"""A whole number of Python or NumPy."""


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
    shard: str = "",
    storage: str = "",
    collect: bool = False,
    keep_states: bool = False,
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
        watch: follows the sweep, and may end it; a `Watcher`.
        shard: `i/n` runs part i of n, counted from 1, in a folder of its own in `out`; "": all.
        storage: where a search by `optuna` keeps its trials, and its shards share them: the path of
            a file that ends in .journal, or the URL of a database; "": in memory.
        collect: gather all shards in `out`, and run nothing.
        keep_states: keep the model of each trial, at its best validation round, in `out` or in
            memory, for `SweepResult.run`.

    Raises:
        UserError: settings that exclude each other or do not fit into memory, unusable data, a
            folder that holds another sweep or is in use, shards that are missing, or no setting
            that stayed finite.

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
        shard=Shard.read(shard) if shard else None,
        storage=storage,
    )
    if keep_states:
        _check_keeping(described, collect)
    if collect:
        return collect_sweep(described, out, federation)
    width, chunk = whole("width", width), whole("chunk", chunk)
    return run_sweep(
        described, out, width=width, chunk=chunk, watch=watch, federation=federation,
        keep_states=keep_states,
    )  # fmt: skip


def run_sweep(
    sweep: Sweep, out: str | Path = "", *, width: int = 0, chunk: int = 0,
    watch: Watcher | None = None, federation: Federation | None = None, keep_states: bool = False,
) -> SweepResult:  # fmt: skip
    """Run a sweep from its description.

    Args:
        sweep: the description.
        out: folder that stores finished trials, which are not run again; "": none.
        width: trials side by side; 0: as many as fit on an accelerator, one on a CPU.
        chunk: trials of one call; 0: as many as run side by side.
        watch: follows the sweep, and may end it.
        federation: the data, as for `sweep`.
        keep_states: as for `sweep`.

    Raises:
        UserError: as for the function `sweep`.
    """
    begun = time.perf_counter()
    federations, plan = _data_and_plan(sweep, federation)
    folder = Path(out) if out else None
    if sweep.shard:
        folder = _shared(out)
        check_shards(folder, sweep, plan)
        folder = sweep.shard.folder(folder)
    results = TrialResults(sweep)
    with exclusive(folder) if folder else nullcontext():
        if folder:
            results.keep_in(folder, plan, sweep.may_grow())
        kept = KeptStates(folder) if keep_states else None
        runner = Runner(
            sweep, federations, results, width=width, chunk=chunk, watch=watch, kept=kept
        )
        at_once = runner.at_once if sweep.search == "optuna" else 1
        try:
            for batch in batches(sweep, results, at_once, fingerprint(plan)):
                runner.run(batch)
                if runner.ended_early:
                    break
        finally:
            results.save()
    running, compiling = runner.seconds
    host = time.perf_counter() - begun - running - compiling
    about: dict[str, Any] = {
        "device": device_name(),
        "versions": versions(),
        "seconds": {"running": running, "compiling": compiling, "host": host},
    }
    if runner.ended_early:
        about["ended_early"] = runner.ended_early
    return end(sweep, federations, results, plan, about, folder, kept)


def collect_sweep(
    sweep: Sweep, out: str | Path, federation: Federation | None = None
) -> SweepResult:
    """Gather the shards in the folder of a sweep, as if one process had run it.

    Args:
        sweep: the description, without a shard.
        out: the folder of the sweep.
        federation: the data, as for `sweep`.

    Raises:
        Unfinished: a shard is missing or has not ended.
        UserError: there is no shard, one is of another sweep or division, or as for `sweep`.
    """
    begun, out = time.perf_counter(), _shared(out)
    if sweep.shard:
        raise UserError("collect: makes the tables of all shards; leave --shard out.")
    if sweep.halving:
        raise UserError(HALVING)
    federations, plan = _data_and_plan(sweep, federation)
    found, about = gather(out, sweep, plan, arguments(sweep, federations[sweep.seeds[0]]))
    results = TrialResults(sweep)
    with exclusive(out):
        results.keep_in(out, plan, sweep.may_grow())
        results.take(found)
        results.save()
    host = time.perf_counter() - begun
    about["seconds"] = {"running": 0.0, "compiling": 0.0, "host": host}
    return end(sweep, federations, results, plan, about, out)


def _check_keeping(sweep: Sweep, collect: bool) -> None:
    """Refuse to keep the states of what does not run as a whole, or reports another round."""
    for name, given in (("halving", sweep.halving), ("shard", sweep.shard), ("collect", collect)):
        if given:
            raise UserError(f"keep_states: does not go with {name}; leave one of them out.")
    if sweep.select != "val":
        raise UserError(
            "keep_states: keeps the round that `fj.run` reports, the best by val; leave select out."
        )


def _shared(out: str | Path) -> Path:
    """The folder that all shards share."""
    if not out:
        raise UserError("shard: needs a folder that all shards share; give `out`.")
    return Path(out)


def _data_and_plan(
    sweep: Sweep, federation: Federation | None
) -> tuple[dict[int, Federation], dict[str, Any]]:
    """The data by seed, and all that the trials depend on."""
    federations = {
        seed: federation or federation_of(dataclasses.replace(sweep.config, seed=seed))
        for seed in sweep.seeds
    }
    check_list(sweep.config, federations[sweep.seeds[0]])
    return federations, sweep.plan({seed: each.fingerprint for seed, each in federations.items()})

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
from typing import TYPE_CHECKING, Any, Protocol

from fedem_jax.config import INERT, Config
from fedem_jax.errors import UserError
from fedem_jax.lock import alone_in
from fedem_jax.protocol import nearest
from fedem_jax.search_space import Setting, Values, drawn, grid, space

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation
    from fedem_jax.ledger import Ledger
    from fedem_jax.sweep_run import Shape

SEARCHES = ("grid", "random", "optuna")
SELECTIONS = ("val", "val_full")
"""Metrics that settings and their rounds may be chosen by: of the validation item among its sampled
candidates, or among all items."""


@dataclass(frozen=True)
class Sweep:
    """What is to be run.

    Raises:
        UserError: something is out of range, or does not go together.
    """

    config: Config
    """Settings that all trials share."""
    varied: tuple[Values, ...]
    seeds: tuple[int, ...]
    """Every setting is run with each of them."""
    search: str = "grid"
    """How settings are found: all of a `grid`, `random` ones, or those that `optuna` asks for."""
    trials: int = 0
    """Settings to draw or to ask for; of no effect in a grid."""
    search_seed: int = 0
    """Of whatever is random in the search."""
    select: str = "val"
    """Which validation metric decides, HR@K then NDCG@K."""
    halving: int = 0
    """Successive halving: after some rounds only the best 1/`halving` of the settings go on, and so
    again; 0: all run to their end."""

    def __post_init__(self):
        if self.search not in SEARCHES:
            raise UserError(
                f"search: '{self.search}' is unknown; {nearest(self.search, list(SEARCHES))}."
            )
        if self.select not in SELECTIONS:
            hint = nearest(self.select, list(SELECTIONS))
            raise UserError(f"select: '{self.select}' is unknown; {hint}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError("seeds: give at least one, each once, all of them at least 0.")
        if self.search != "grid" and self.trials < 1:
            raise UserError(f"trials: --search {self.search} needs their number; give --trials N.")
        if self.search == "grid" and self.trials:
            raise UserError("trials: a grid runs all its settings; leave --trials out.")
        if self.halving == 1 or self.halving < 0:
            raise UserError(f"halving: {self.halving} drops nothing; give at least 2.")
        if self.halving and self.search == "optuna":
            raise UserError("halving: goes with --search grid or random, not with optuna.")
        settings = self.settings() if self.search != "optuna" else self._extremes()
        for setting in settings:
            self.config_of(setting, self.seeds[0])

    def settings(self) -> list[Setting]:
        """All settings, in order, where they are known beforehand."""
        if self.search == "grid":
            return grid(self.varied)
        return drawn(self.varied, self.trials, self.search_seed)

    def _extremes(self) -> list[Setting]:
        """Settings that hold every listed value and both ends of every range."""
        every = [each.listed or (each.low, each.high) for each in self.varied]
        first = {each.name: values[0] for each, values in zip(self.varied, every, strict=True)}
        return [
            first | {each.name: value}
            for each, values in zip(self.varied, every, strict=True)
            for value in values
        ]

    def config_of(self, setting: Setting, seed: int) -> Config:
        """All settings of a trial."""
        try:
            return dataclasses.replace(self.config, seed=seed, out="", **setting)
        except UserError as error:
            raise UserError(f"vary: {error}") from None

    def plan(self, federations: dict[int, Federation]) -> dict[str, Any]:
        """What decides the trials, as JSON holds it."""
        apart = ("seed", "per_client", *INERT)
        config = dataclasses.asdict(self.config)
        splits = {str(seed): each.fingerprint for seed, each in federations.items()}
        return {
            "config": {name: value for name, value in config.items() if name not in apart},
            "vary": [str(values) for values in self.varied],
            "search": self.search,
            "search_seed": self.search_seed,
            "halving": self.halving,
            "trials": self.trials,
            "seeds": list(self.seeds),
            "select": self.select,
            "splits": splits,
        }

    def may_grow(self) -> tuple[str, ...]:
        """Entries of the plan that may change without touching the trials that were run."""
        if self.search == "optuna" or self.halving:
            return ()
        return ("seeds", "trials", "select")


class Watcher(Protocol):
    """Whoever watches a sweep."""

    def plan(self, sweep: Sweep, federation: Federation, shapes: Sequence[Shape]) -> None:
        """Before a batch starts: what is left to run."""

    def chunk(self, shape: Shape, ledger: Ledger, trials: int, seconds: float) -> None:
        """After each chunk of so many trials."""


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
        vary: `FIELD=VALUES`, or values by name of the field, as `fedem_jax.search_space` has them.
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
    from fedem_jax.data.sources import federation_of
    from fedem_jax.ledger import Ledger
    from fedem_jax.searches import batches
    from fedem_jax.summary import chance
    from fedem_jax.sweep_run import Runner
    from fedem_jax.train import check_list, device_name, versions

    begun, config = time.perf_counter(), wanted.config
    federations = {
        seed: federation_of(dataclasses.replace(config, seed=seed)) for seed in wanted.seeds
    }
    check_list(config, federations[wanted.seeds[0]])
    names = [values.name for values in wanted.varied]
    ledger = Ledger(names, config.top_k, config.rounds, wanted.select)
    plan = wanted.plan(federations)
    with alone_in(Path(out)) if out else nullcontext():
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

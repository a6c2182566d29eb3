"""The description of a sweep: settings, what is varied, seeds, and the kind of search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedem_jax.config.base import INERT, Config
from fedem_jax.errors import UserError, nearest
from fedem_jax.sweeps.shards import Shard, check_storage
from fedem_jax.sweeps.space import Setting, Values, drawn, grid

SEARCHES = ("grid", "random", "optuna")
SELECTIONS = ("val", "val_full")
"""Validation metrics that settings and rounds may be chosen by: ranks among the sampled candidates,
or among all items."""
HALVING = (
    "halving: compares all settings with each other, and a shard has only its own; leave --halving "
    "out, or run the sweep without --shard."
)
"""Why successive halving has no shards."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep consists of.

    Raises:
        UserError: a value is out of range, or two of them exclude each other.
    """

    config: Config
    """Settings that all trials share."""
    varied: tuple[Values, ...]
    seeds: tuple[int, ...]
    """Every setting runs with each seed."""
    search: str = "grid"
    """How settings are found: all of a `grid`, `random` ones, or those that `optuna` suggests."""
    trials: int = 0
    """Number of settings to draw or to ask Optuna for; 0 in a grid."""
    search_seed: int = 0
    """Seed of the search."""
    select: str = "val"
    """Ranking that decides, by HR@K and then NDCG@K."""
    halving: int = 0
    """Successive halving: only the best 1/`halving` of the settings run on after each step; 0: all
    settings run all rounds."""
    shard: Shard | None = None
    """The part of the trials that is run; None: all."""
    storage: str = ""
    """Where a search by Optuna keeps its trials, and its shards share them: the path of a journal
    or the URL of a database; empty: in memory."""

    def __post_init__(self):
        for name, known in (("search", SEARCHES), ("select", SELECTIONS)):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"{name}: '{value}' is unknown; {nearest(value, list(known))}.")
        if self.config.patience:
            raise UserError("patience: trials run side by side; give --halving instead, or 0.")
        if self.config.start:
            raise UserError("start: trials start from the initial parameters; leave it empty.")
        if self.config.client_memory == "host":
            raise UserError("client_memory: trials keep their clients on the devices; give device.")
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
        self._check_shard()
        settings = self.settings() if self.search != "optuna" else self._extremes()
        for setting in settings:
            self.config_of(setting, self.seeds[0])

    def _check_shard(self) -> None:
        optuna = self.search == "optuna"
        if self.storage and not optuna:
            raise UserError("storage: is for --search optuna; leave it out.")
        if self.storage:
            check_storage(self.storage)
        if not self.shard:
            return
        if self.halving:
            raise UserError(HALVING)
        if optuna and not self.storage:
            raise UserError(
                "storage: shards share what a search by optuna has found; give the same --storage "
                "PATH.journal to all, or --search random."
            )
        units = self.trials if optuna else len(self.settings()) * len(self.seeds)
        if self.shard.of > units:
            raise UserError(
                f"shard: {self.shard.of} parts of {units} leave some without any; give at most "
                f"{min(self.shard.number, units)}/{units}."
            )

    @property
    def metric(self) -> str:
        """The metric that decides, such as `val hr@10`."""
        return f"{self.select} hr@{self.config.top_k}"

    def settings(self) -> list[Setting]:
        """All settings of a grid or of a random search, in order."""
        if self.search == "grid":
            return grid(self.varied)
        return drawn(self.varied, self.trials, self.search_seed)

    def _extremes(self) -> list[Setting]:
        """Settings that together hold every listed value and both ends of every range."""
        values = {each.name: each.listed or (each.low, each.high) for each in self.varied}
        first = {name: listed[0] for name, listed in values.items()}
        return [first | {name: value} for name, listed in values.items() for value in listed]

    def idle(self) -> list[str]:
        """The varied settings that change nothing in any trial."""
        settings = self.settings() if self.search != "optuna" else self._extremes()
        left = {values.name for values in self.varied}
        for setting in settings:
            left &= set(self.config_of(setting, self.seeds[0]).without_effect())
        return [values.name for values in self.varied if values.name in left]

    def config_of(self, setting: Setting, seed: int) -> Config:
        """All settings of a trial."""
        try:
            return dataclasses.replace(self.config, seed=seed, out="", **setting)
        except UserError as error:
            raise UserError(f"vary: {error}") from None

    def plan(self, splits: dict[int, str]) -> dict[str, Any]:
        """All that the trials depend on, for JSON; `splits` are fingerprints by seed."""
        excluded = ("seed", "per_client", *INERT)
        config = dataclasses.asdict(self.config)
        config["dataset"] = data_name(self.config.dataset)
        return {
            "config": {name: value for name, value in config.items() if name not in excluded},
            "vary": [str(values) for values in self.varied],
            "search": self.search,
            "search_seed": self.search_seed,
            "halving": self.halving,
            "trials": self.trials,
            "seeds": list(self.seeds),
            "select": self.select,
            "splits": {str(seed): split for seed, split in splits.items()},
        }

    def may_grow(self) -> tuple[str, ...]:
        """Entries of the plan that may change while finished trials stay valid."""
        if self.search == "optuna" or self.halving:
            return ()
        return ("seeds", "trials", "select")


def data_name(dataset: str) -> str:
    """A data set without the folder of its file: `splits` of a plan say which data they are, so
    that a path may be spelled differently, and its file may move."""
    return Path(dataset).name

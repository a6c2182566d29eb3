"""What a sweep consists of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fedem_jax.config.base import INERT, Config
from fedem_jax.errors import UserError, nearest
from fedem_jax.sweep.space import Setting, Values, drawn, grid

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

    def plan(self, splits: dict[int, str]) -> dict[str, Any]:
        """What decides the trials, as JSON holds it; `splits` are fingerprints by seed."""
        apart = ("seed", "per_client", *INERT)
        config = dataclasses.asdict(self.config)
        return {
            "config": {name: value for name, value in config.items() if name not in apart},
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
        """Entries of the plan that may change without touching the trials that were run."""
        if self.search == "optuna" or self.halving:
            return ()
        return ("seeds", "trials", "select")

"""What a comparison consists of: methods with their settings, seeds and folders."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.config.base import Config
from fedem_jax.config.presets import PRESETS, preset
from fedem_jax.config.protocol import SWITCHES
from fedem_jax.config.registry import METHODS, settings_of
from fedem_jax.config.values import from_text
from fedem_jax.errors import UserError, nearest

VARIANTS = {"pfedrec": ("pfedrec:evaluated=global",)}
"""What is compared beside each method unless methods are named: PFedRec with the table that its
clients download, since the one that it was published with profits from a leak."""

FLAGS = ("dataset", "method", "protocol", "rounds", "seed", "out", "data_dir", "per_client")
"""Settings that `plan_comparison` has arguments for, or that it sets itself."""
ALIKE = ("eval_every", "top_k", "columns", "separator", "header", *SWITCHES)
"""Further settings that must be the same for all, or figures would not mean the same."""


class MethodSpec(NamedTuple):
    """A method with its settings."""

    name: str
    """As asked for: `fedem`, `fedem:merging=once:dim=32`."""
    config: Config | None
    """Its settings with the first seed; None: it cannot run."""
    refused: str = ""
    """Why it cannot run."""


class PlannedRun(NamedTuple):
    """A contender with one seed."""

    name: str
    """Of the contender."""
    config: Config
    path: Path
    """Run directory."""

    def __str__(self) -> str:
        return f"{self.name} seed {self.config.seed}"


@dataclass(frozen=True)
class Comparison:
    """What is to be run, and where it is kept."""

    directory: Path
    contenders: tuple[MethodSpec, ...]
    seeds: int
    """Seeds of each: 0 to seeds - 1."""

    def runs(self) -> list[PlannedRun]:
        """All runs, in order: first all contenders with seed 0, so that every one is seen early."""
        return [
            self.run(contender.name, contender.config, seed)
            for seed in range(self.seeds)
            for contender in self.contenders
            if contender.config is not None
        ]

    def run(self, name: str, config: Config, seed: int) -> PlannedRun:
        """One run of a contender."""
        path = self.directory / f"{_slug(name)}-seed{seed}"
        return PlannedRun(name, dataclasses.replace(config, seed=seed, out=str(path)), path)


def plan_comparison(
    methods: Sequence[str] = (),
    *,
    dataset: str = "synthetic",
    protocol: str = "leak-free",
    seeds: int = 5,
    rounds: int = 0,
    start: str = "auto",
    settings: Sequence[str] = (),
    out: str = "",
    data_dir: str = "",
) -> Comparison:
    """What a comparison consists of.

    Args:
        methods: names, each with switches of its own if need be, `NAME:FIELD=VALUE:...`; none: all
            methods and `VARIANTS`.
        rounds: of all methods; 0: those of their presets. A switch `rounds` of a method goes first.
        start: preset of all methods. One that lacks it is refused by itself.
        settings: `FIELD=VALUE`, for all methods alike.

    Raises:
        UserError: an unknown method or setting, a value out of range, settings that would make two
            methods incomparable, or no method that can run.
    """
    if seeds < 1:
        raise UserError(f"seeds: {seeds} is out of range; give a number of at least 1.")
    if rounds < 0:
        raise UserError(f"rounds: {rounds} is out of range; give a number of at least 1.")
    if start not in PRESETS:
        raise UserError(f"preset: '{start}' is unknown; {nearest(start, list(PRESETS))}.")
    shared = _values(Config, settings, FLAGS)
    shared |= {"protocol": protocol, "data_dir": data_dir, "per_client": True}
    if rounds:
        shared["rounds"] = rounds
    preset("released", dataset=dataset, **shared)  # their mistakes are those of no method

    names = methods or [each for name in METHODS for each in (name, *VARIANTS.get(name, ()))]
    contenders = tuple(_contender(name, dataset, start, shared) for name in dict.fromkeys(names))
    if all(contender.config is None for contender in contenders):
        raise UserError(contenders[0].refused)
    stem = Path(dataset).stem or "data"
    directory = Path(out or Path("results") / f"compare-{stem}-{protocol}")
    return Comparison(directory, contenders, seeds)


def _contender(name: str, dataset: str, start: str, shared: dict[str, Any]) -> MethodSpec:
    method, *switches = name.split(":")
    kind = settings_of(method)
    try:
        preset(start, dataset=dataset, method=method)
    except UserError as error:
        return MethodSpec(name, None, str(error))
    try:
        own = _values(kind, switches, {*FLAGS, *ALIKE} - {"rounds"})
        config = preset(start, dataset=dataset, method=method, **(shared | own))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return MethodSpec(name, config)


def _values(kind: type[Config], pairs: Sequence[str], barred: Collection[str]) -> dict[str, Any]:
    """`FIELD=VALUE` in the types of the fields; a tuple's entries stand between commas."""
    known = [field.name for field in dataclasses.fields(kind) if field.name not in barred]
    values = {}
    for pair in pairs:
        given, equals, text = pair.partition("=")
        name = given.replace("-", "_")
        if not equals:
            raise UserError(f"'{pair}' sets nothing; write FIELD=VALUE.")
        if name in barred:
            raise UserError(f"'{name}' is chosen for all methods; see `fedem compare --help`.")
        if name not in known:
            raise UserError(f"setting '{name}' is unknown; {nearest(name, known)}.")
        values[name] = from_text(kind, name, text)
    return values


def _slug(name: str) -> str:
    """A contender's name as part of a folder's."""
    return re.sub(r"[^\w.=+-]+", "-", name)

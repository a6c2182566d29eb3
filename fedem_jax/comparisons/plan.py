"""What a comparison consists of: methods with their settings, seeds and folders."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.config.base import FILES, READING, Config
from fedem_jax.config.presets import PRESETS, preset
from fedem_jax.config.protocol import SWITCHES
from fedem_jax.config.registry import METHODS, settings_of
from fedem_jax.config.values import from_data, from_text
from fedem_jax.errors import UserError, nearest

FLAGS = (
    "dataset", "method", "protocol", "rounds", "seed", "out", "data_dir", "per_client", "keep",
)  # fmt: skip
"""Settings that `plan_comparison` has arguments for, or that it sets itself."""
ALIKE = ("eval_every", "patience", "top_k", *FILES, *READING, *SWITCHES)
"""Further settings that must be the same for all methods, so that metrics are comparable."""
NOT_IN_NAMES = r"[^\w.=+-]+"
"""Characters of a method's name that folder names replace."""
LABEL = r"[\w.+-]+"
"""What a label of a method is made of."""


class MethodSpec(NamedTuple):
    """A method with its settings."""

    name: str
    """Its label, else as the user gave it: `fedmf`, `fedmf:dim=32:local_epochs=5`."""
    config: Config | None
    """Its settings with the first seed; None: it cannot run."""
    refused: str = ""
    """Why it cannot run."""
    own: tuple[str, ...] = ()
    """Its own settings, `FIELD=VALUE` each."""

    @property
    def idle(self) -> list[str]:
        """Those of its own switches that change nothing."""
        switches = [_pair(each)[0] for each in self.own]
        without = self.config.without_effect() if self.config else ()
        return [name for name in switches if name in without]


class PlannedRun(NamedTuple):
    """A method with one seed."""

    name: str
    """As in `MethodSpec`."""
    config: Config
    path: Path
    """Run directory."""

    def __str__(self) -> str:
        return f"{self.name} seed {self.config.seed}"


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison, and the folder that holds them."""

    directory: Path
    contenders: tuple[MethodSpec, ...]
    seeds: int
    """Number of seeds; they are 0 to seeds - 1."""

    def runs(self) -> list[PlannedRun]:
        """All runs, seed by seed, so that every method has a result early."""
        return [
            self.run(each.name, each.config, seed)
            for seed in range(self.seeds)
            for each in self.contenders
            if each.config is not None
        ]

    def run(self, name: str, config: Config, seed: int) -> PlannedRun:
        """One run of a method."""
        path = self.directory / f"{re.sub(NOT_IN_NAMES, '-', name)}-seed{seed}"
        return PlannedRun(name, dataclasses.replace(config, seed=seed, out=str(path)), path)


def plan_comparison(
    methods: Sequence[str] = (),
    *,
    dataset: str = "synthetic",
    protocol: str = "leak-free",
    seeds: int = 5,
    rounds: int = 0,
    start: str = "auto",
    settings: Sequence[str] | Mapping[str, Any] = (),
    out: str = "",
    data_dir: str = "",
    keep: str = "best-and-last",
) -> Comparison:
    """Plan a comparison.

    Args:
        methods: names, each with settings of its own if need be, `NAME:FIELD=VALUE:...`, and with a
            label for the tables, `LABEL=NAME:FIELD=VALUE`; empty: all methods and the `variants`
            that their settings declare.
        dataset: name of a known data set, or path of a file.
        protocol: rules of split, negatives and selection.
        seeds: number of seeds.
        rounds: of all methods; 0: those of their presets. A method's own `rounds` has precedence.
            References with a closed form keep their single round.
        start: preset of all methods. A method without that preset is refused; the others run.
        settings: for all methods, as `FIELD=VALUE` or as values by name.
        out: folder; "": results/compare-<dataset>-<protocol>.
        data_dir: folder of data sets; "": as in `Config`.
        keep: states of each run that stay on disk, as in `Config`.

    Raises:
        UserError: an unknown method or setting, a value out of range, settings that would make two
            methods incomparable, or no method that can run.
    """
    for name, number, least in (("seeds", seeds, 1), ("rounds", rounds, 0)):
        if number < least:
            raise UserError(f"{name}: {number} is out of range; give a number of at least 1.")
    if start not in PRESETS:
        raise UserError(f"preset: '{start}' is unknown; {nearest(start, list(PRESETS))}.")
    shared = _values(Config, settings, FLAGS)
    shared |= {"protocol": protocol, "data_dir": data_dir, "per_client": True, "keep": keep}
    if rounds:
        shared["rounds"] = rounds
    preset("released", dataset=dataset, **shared)  # mistakes in them concern no single method

    names = methods or [
        name
        for method, (kind, _) in METHODS.items()
        for name in (method, *(f"{method}:{variant}" for variant in kind.variants))
    ]
    specs = tuple(_spec(name, dataset, start, shared) for name in dict.fromkeys(names))
    for name, number in Counter(spec.name for spec in specs).items():
        if number > 1:
            raise UserError(f"methods: {number} have the label '{name}'; give each its own.")
    if all(spec.config is None for spec in specs):
        raise UserError(specs[0].refused)
    stem = Path(dataset).stem or "data"
    directory = Path(out or Path("results") / f"compare-{stem}-{protocol}")
    return Comparison(directory, specs, seeds)


def _spec(given: str, dataset: str, start: str, shared: dict[str, Any]) -> MethodSpec:
    method, *pairs = given.split(":")
    name, (label, labelled, after) = given, method.partition("=")
    if labelled:
        if label in METHODS or not re.fullmatch(LABEL, label):
            raise UserError(
                f"{given}: '{label}' is no label; write LABEL=NAME:FIELD=VALUE, with a label of "
                "letters and digits that is no method, or NAME:FIELD=VALUE."
            )
        name, method = label, after
    kind = settings_of(method)
    try:
        preset(start, dataset=dataset, method=method)
    except UserError as error:
        return MethodSpec(name, None, str(error))
    try:
        own = _values(kind, pairs, {*FLAGS, *ALIKE} - {"rounds"})
        if kind.one_round:
            own = {"rounds": kind.rounds} | own
        config = preset(start, dataset=dataset, method=method, **(shared | own))
    except UserError as error:
        raise UserError(f"{given}: {error}") from None
    return MethodSpec(name, config, own=tuple(pairs))


def _values(
    kind: type[Config], given: Sequence[str] | Mapping[str, Any], barred: Collection[str]
) -> dict[str, Any]:
    """Values of the fields' types. In a text, commas separate the entries of a list."""
    known = [field.name for field in dataclasses.fields(kind) if field.name not in barred]
    pairs = given.items() if isinstance(given, Mapping) else map(_pair, given)
    convert = from_data if isinstance(given, Mapping) else from_text
    values = {}
    for name, value in pairs:
        if name in barred:
            raise UserError(f"'{name}' is chosen for all methods; see `fedem compare --help`.")
        if name not in known:
            raise UserError(f"setting '{name}' is unknown; {nearest(name, known)}.")
        values[name] = convert(kind, name, value)
    return values


def _pair(text: str) -> tuple[str, str]:
    """Name and value of `FIELD=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"'{text}' sets nothing; write FIELD=VALUE.")
    return name.replace("-", "_"), value

"""What a sweep varies: values of settings, listed, in equal steps, or drawn from a range.

lr_embedding=0.01,0.03,0.1    these values
alpha=0.5:1:6                 6 values from 0.5 to 1, in equal steps
lr_adapter=log:1e-3:1e-1:5    5 values from 0.001 to 0.1, in equal ratios
alpha=0.5:1                   any value in the range, uniformly (random and optuna)
lr_adapter=log:1e-3:1e-1      any value, uniformly in its logarithm (random and optuna)
adapter_widths=16x8,32x16     lists, their entries joined by an x
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedem_jax.config.base import FILES, READING, Config
from fedem_jax.config.protocol import SWITCHES
from fedem_jax.config.values import declared, from_data, from_text, listed
from fedem_jax.errors import UserError, nearest

FIXED = (
    "dataset", "method", "protocol", "rounds", "seed", "out", "eval_every", "patience", "top_k",
    "per_client", "data_dir", "block_size", "size_classes", "client_memory",
    "gpu_loops",
    *FILES, *READING, *SWITCHES,
)  # fmt: skip
"""Settings that are the same for all trials: data and protocol, since metrics would not be
comparable; rounds, since each trial is judged by its best; and those that change no result."""

Setting = dict[str, Any]
"""One value for each varied setting, by name."""


class Values(NamedTuple):
    """The values that one setting may take: those of `listed`, or a range."""

    name: str
    listed: tuple[Any, ...]
    """In the type of the setting; empty: any value from `low` to `high`."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether values are spaced or drawn in equal ratios, not differences."""
    whole: bool = False
    """Whether only integers are drawn."""

    def draw(self, random: np.random.Generator) -> Any:
        """One of the listed values with equal probability, or a value of the range."""
        if self.listed:
            return self.listed[int(random.integers(len(self.listed)))]
        if not self.log:
            drawn = float(random.uniform(self.low, self.high))
        else:
            drawn = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return round(drawn) if self.whole else min(max(drawn, self.low), self.high)

    def __str__(self) -> str:
        """As written on the command line."""
        if self.listed:
            return f"{self.name}={','.join(map(as_text, self.listed))}"
        return f"{self.name}={'log:' if self.log else ''}{self.low:g}:{self.high:g}"


def as_text(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, tuple):
        return "x".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def space(
    kind: type[Config], vary: Mapping[str, Any] | Sequence[str], path: str | Path = ""
) -> tuple[Values, ...]:
    """The varied settings, in their given order.

    Args:
        kind: settings of the method.
        vary: `NAME=VALUES`, as on the command line; or a mapping from names to such `VALUES` or to
            sequences of values.
        path: JSON or TOML file with such a mapping, whose entries come first; "": none.

    Raises:
        UserError: nothing is varied, a setting is unknown, fixed or named twice, or its values
            cannot be read.
    """
    if isinstance(vary, str):
        vary = [vary]
    entries: list[tuple[str, Any]] = list(_in_file(Path(path)).items()) if path else []
    if isinstance(vary, Mapping):
        entries += vary.items()
    else:
        for text in vary:
            name, equals, values = text.partition("=")
            if not equals:
                raise UserError(f"vary: '{text}' names no values; write FIELD=VALUE,VALUE,...")
            entries.append((name, values))
    if not entries:
        raise UserError("vary: nothing is varied; give --vary FIELD=VALUE,VALUE,... or --space.")
    varied = tuple(_values(kind, name.strip().replace("-", "_"), each) for name, each in entries)
    names = [values.name for values in varied]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"vary: '{twice[0]}' is named twice; give all its values at once.")
    return varied


def grid(varied: Sequence[Values]) -> list[Setting]:
    """All combinations; the last setting changes fastest.

    Raises:
        UserError: a setting has a range instead of listed values.
    """
    for values in varied:
        if not values.listed:
            raise UserError(
                f"vary: {values} is a range without steps; a grid needs their number at its end, "
                f"as in {values}:5, or give --search random."
            )
    names = [values.name for values in varied]
    every = itertools.product(*(values.listed for values in varied))
    return [dict(zip(names, each, strict=True)) for each in every]


def drawn(varied: Sequence[Values], number: int, seed: int) -> list[Setting]:
    """`number` random settings, all different; fewer if there are not so many.

    A larger number begins with the same settings, so a search may be extended later.
    """
    random, settings = np.random.default_rng(seed), {}
    for _ in range(100 * number):
        setting = {values.name: values.draw(random) for values in varied}
        settings[tuple(setting.values())] = setting
        if len(settings) == number:
            break
    return list(settings.values())


def _values(kind: type[Config], name: str, given: Any) -> Values:
    known = [field.name for field in dataclasses.fields(kind) if field.name not in FIXED]
    if name in FIXED:
        raise UserError(f"vary: '{name}' is the same for all trials of a sweep.")
    if name not in known:
        raise UserError(f"vary: setting '{name}' is unknown; {nearest(name, known)}.")
    if isinstance(given, str):
        if ":" in given and declared(kind, name) in (int, float):
            return _range(name, given, declared(kind, name))
        given = [each.strip() for each in given.split(",")]
    given = listed(given)
    if not isinstance(given, Sequence):
        given = [given]
    try:
        found = tuple(_value(kind, name, each) for each in given)
    except UserError as error:
        raise UserError(f"vary: {error}") from None
    if not found:
        raise UserError(f"vary: '{name}' has no values.")
    found = tuple(dict.fromkeys(found))
    return Values(name, found, log=_by_ratios(found))


def _range(name: str, text: str, entry: type) -> Values:
    """The values of `[log:]LOW:HIGH[:STEPS]`."""
    parts = text.split(":")
    log = parts[0].strip() == "log"
    try:
        low, high, *steps = (float(part) for part in parts[log:])
        count = int(steps[0]) if steps else 0
    except (ValueError, OverflowError):
        low, high, steps, count = 0.0, 0.0, [0.0], 0
    sound = low < high and math.isfinite(high) and math.isfinite(low) and len(steps) < 2
    if not sound or (steps and (count < 2 or count != steps[0])):
        raise UserError(
            f"vary: {name}={text} is no range; write LOW:HIGH:STEPS, log:LOW:HIGH:STEPS, or either "
            "without steps to draw from, with LOW < HIGH."
        )
    if log and low <= 0:
        raise UserError(f"vary: {name}={text} has no logarithm at {low:g}; start above 0.")
    if not count:
        return Values(name, (), low, high, log, whole=entry is int)
    spaced = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
    rounded = [round(value) if entry is int else float(f"{value:.6g}") for value in spaced]
    return Values(name, tuple(dict.fromkeys(rounded)), log=log)


def _value(kind: type[Config], name: str, given: Any) -> Any:
    """A value, given as text or data, in the type of the setting."""
    if declared(kind, name) is str and isinstance(given, Real) and not isinstance(given, bool):
        given = str(given)  # a setting may take a word or a number
    if isinstance(given, str):
        return from_text(kind, name, given, between="x")
    return from_data(kind, name, given)


def _by_ratios(listed: Sequence[Any]) -> bool:
    """Whether listed numbers are so far apart that a picture needs a logarithmic axis."""
    numbers = [value for value in listed if isinstance(value, int | float)]
    return len(numbers) == len(listed) > 2 and min(numbers) > 0 and max(numbers) > 8 * min(numbers)


def _in_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:  # of both formats
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise UserError(f"{path}: is not {kind} ({error}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no search space; expected values by name of the setting.")
    return values

"""The preset `tuned`: settings chosen on validation, read from `tuned.toml`.

[METHOD.DATASET]
command = "fedem sweep ..."    the command of the sweep, if it is known
found = "Best of 8 ..."        how good the settings are, and among how many

[METHOD.DATASET.settings]      settings that differ from the defaults of the method
lr_embedding = 3.0
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.config.file import settings_from
from fedem_jax.config.registry import settings_of
from fedem_jax.errors import UserError

FILE = Path(__file__).with_name("tuned.toml")


class Tuned(NamedTuple):
    """Tuned settings of a method on a data set."""

    settings: dict[str, Any]
    """Settings that differ from the defaults of the method."""
    found: str
    """A sentence: how good the settings are, and among how many."""
    command: str = ""
    """The command of the sweep; empty if it is not known."""


Entries = dict[tuple[str, str], Tuned]
"""Tuned settings by method and data set."""


@cache
def tuned() -> Entries:
    """All entries of `tuned.toml`."""
    return entries_of(FILE.read_text(encoding="utf-8"), FILE.name)


def entries_of(text: str, source: str) -> Entries:
    """The entries of a text in TOML.

    Args:
        text: as in `tuned.toml`.
        source: where the text comes from, for the error sentence.

    Raises:
        UserError: the text is not TOML. Or an entry is incomplete, has an unknown field, or a value
            that a field does not accept.
    """
    try:
        methods = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: is not TOML ({error}).") from None
    return {
        (method, dataset): _entry(method, entry, f"{source}: {_header(method, dataset)}")
        for method, datasets in methods.items()
        for dataset, entry in _table(datasets, f"{source}: {_header(method)}").items()
    }


def as_toml(method: str, dataset: str, entry: Tuned) -> str:
    """An entry in the form of `tuned.toml`."""
    texts = {"command": entry.command, "found": entry.found}
    lines = [
        _header(method, dataset),
        *(f"{name} = {_value(text)}" for name, text in texts.items() if text),
        "",
        _header(method, dataset, "settings"),
        *(f"{name} = {_value(value)}" for name, value in entry.settings.items()),
    ]
    return "\n".join(lines) + "\n"


def _entry(method: str, values: Any, source: str) -> Tuned:
    values = {"command": "", **_table(values, source)}
    if unknown := values.keys() - set(Tuned._fields):
        raise UserError(f"{source}: '{min(unknown)}' is unknown; known: command, found, settings.")
    for name in ("command", "found"):
        if not isinstance(values.get(name), str):
            raise UserError(f"{source}: has no text called {name}.")
    given = _table(values.get("settings"), f"{source}: settings")
    try:
        kind = settings_of(method)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    settings = settings_from(kind, given, source)
    changed = {name: getattr(settings, name) for name in given}
    return Tuned(changed, values["found"], values["command"])


def _table(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{source}: is no table; see the entries of {FILE.name}.")
    return value


def _header(*names: str) -> str:
    keys = [name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name) for name in names]
    return f"[{'.'.join(keys)}]"


def _value(value: Any) -> str:
    """A text, number, boolean or list as TOML. That is JSON, but with character 127 escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

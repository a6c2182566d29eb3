"""Settings in a file, as every run directory keeps them."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fedem_jax.config.base import Config
from fedem_jax.config.registry import METHODS
from fedem_jax.config.settings import FedEM
from fedem_jax.errors import UserError, nearest

LARGEST_FILE = 2**20
"""Bytes that a file of settings may have."""


def load_settings(path: str | Path) -> Config:
    """Read settings written by `Config.save`. They are JSON: nothing in them is ever executed.

    Raises:
        UserError: the file is missing or too large, no JSON object, or holds an unknown method, an
            unknown or repeated field, or a value that a field cannot have.
    """
    path = Path(path)
    values = _json_of(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; expected a JSON object.")
    method = values.get("method", FedEM.method)
    if not isinstance(method, str) or method not in METHODS:
        hint = nearest(str(method)[:40], list(METHODS))
        raise UserError(f"{path}: method: {reprlib.repr(method)} is unknown; {hint}.")
    kind = METHODS[method].settings
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in values.items():
        if name not in known:
            hint = nearest(name[:40], list(known))
            raise UserError(f"{path}: unknown field {reprlib.repr(name)}; {hint}.")
        values[name] = _as_in(path, kind, name, value, known[name].default)
    return kind(**values)


def _json_of(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: gives {reprlib.repr(twice)} twice; keep one of them.")
        return values

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"{path}: holds no settings; it has more than {LARGEST_FILE} bytes.")
        return json.loads(content, object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except RecursionError:
        raise UserError(f"{path}: holds no settings; its values are nested too deep.") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}).") from None


def _as_in(path: Path, kind: type[Config], name: str, value: Any, default: Any) -> Any:
    """A value from JSON in the type of the field's default."""
    shown = reprlib.repr(value)
    if isinstance(default, tuple) and isinstance(value, list):
        (entry, _) = get_args(get_type_hints(kind)[name])
        if any(type(each) is not entry for each in value):
            raise UserError(f"{path}: field '{name}' is {shown}; expected {entry.__name__}s.")
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{path}: field '{name}' is {shown}, which is too large.") from None
    if type(value) is not type(default):
        raise UserError(f"{path}: field '{name}' is {shown}; expected a {type(default).__name__}.")
    return value

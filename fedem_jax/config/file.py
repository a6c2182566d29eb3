"""Reads settings from a file, such as config.json of a run directory."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, TypeVar

from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import settings_of
from fedem_jax.config.values import refuse_unknown
from fedem_jax.errors import UserError

Kind = TypeVar("Kind", bound=Config)

LARGEST_FILE = 2**20
"""Most bytes of a file of settings."""


def load_settings(path: str | Path) -> Config:
    """Read settings that `Config.save` wrote. They are JSON, so nothing in them is executed.

    Raises:
        UserError: the file is missing, too large or not a JSON object. Or it holds an unknown
            method, an unknown or repeated field, or a value that a field does not accept.
    """
    path = Path(path)
    values = _json_of(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; expected a JSON object.")
    try:
        kind = settings_of(values.get("method", FedEM.method))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return settings_from(kind, values, str(path))


def settings_from(kind: type[Kind], values: dict[str, Any], source: str) -> Kind:
    """Make settings of JSON or TOML values.

    Args:
        kind: the class of the settings.
        values: values by name of the field; a missing field has its default.
        source: where the values come from, for the error sentence.

    Raises:
        UserError: a field is unknown, or does not accept its value.
    """
    try:
        refuse_unknown(kind, values, "field")
        return kind(**values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


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

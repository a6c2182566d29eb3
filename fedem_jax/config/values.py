"""Converts texts and data to the type of a field of the settings.

text    `FIELD=VALUE` of a command    "0.1"    "true"    "16,8"
data    JSON, TOML or Python          0.1      true      [16, 8]

A field is an int, float, bool, str, a Literal of texts, or a tuple of int, float or str. `Config`
checks ranges and choices when settings are made.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedem_jax.errors import UserError, nearest

WORDS = {int: "integer", float: "number", str: "text"}
"""Names of types in error sentences."""


def declared(kind: type, name: str) -> Any:
    """The type of a field of a class, without its range."""
    return _types(kind)[name]


def from_text(kind: type, name: str, text: str, between: str = ",") -> Any:
    """Convert a text to the type of a field. An empty text is the empty tuple.

    Args:
        kind: class of settings.
        name: name of the field.
        text: the value as text.
        between: separator of the entries of a tuple.

    Raises:
        UserError: the text has another type. The sentence names field and text.
    """
    target = declared(kind, name)
    if get_origin(target) is not tuple:
        return _read(name, text, target)
    entry = get_args(target)[0]
    return tuple(_read(name, part, entry) for part in text.split(between)) if text else ()


def from_data(kind: type, name: str, value: Any) -> Any:
    """Convert a value from JSON, TOML or Python to the type of a field.

    An integer may stand for a number, and a whole number for an integer. Scalars and lists of NumPy
    and JAX count as numbers and lists, a path as its text. Nothing else is converted.

    Raises:
        UserError: the value has another type. The sentence names field and value.
    """
    target = declared(kind, name)
    if get_origin(target) is not tuple:
        return _converted(name, value, target)
    value = listed(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _refused(name, value, target)
    return tuple(_converted(name, entry, get_args(target)[0]) for entry in value)


def whole(name: str, value: Any, least: int = 0) -> int:
    """Convert an argument of Python to an integer, as a setting of this type.

    Args:
        name: what the user calls it.
        least: smallest number that is accepted.

    Raises:
        UserError: the value is no integer, or smaller. The sentence names it.
    """
    number = _converted(name, value, int)
    if number < least:
        raise UserError(f"{name}: {number} is out of range; give a number of at least {least}.")
    return number


def listed(value: Any) -> Any:
    """The entries of an array of NumPy or JAX, or of a table's column, as a list; anything else as
    it is."""
    if getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist"):
        return list(value)
    return value


def refuse_unknown(kind: type, names: Iterable[str], what: str = "setting") -> None:
    """Refuse a name that is no field of a class of settings.

    Raises:
        UserError: one is unknown. The sentence suggests the nearest.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        if name not in known:
            hint = nearest(name[:40], known)
            raise UserError(f"unknown {what} {reprlib.repr(name)}; {hint}.")


@cache
def with_ranges(kind: type) -> dict[str, Any]:
    """Types of all fields of a class, with their ranges."""
    return get_type_hints(kind, include_extras=True)


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(name: str, text: str, target: Any) -> Any:
    """Convert a text to a single value. The choices of a Literal are not checked here."""
    if target is str or get_origin(target) is Literal:
        return text
    try:
        return {"true": True, "false": False}[text.lower()] if target is bool else target(text)
    except (KeyError, ValueError):
        raise _refused(name, text, target) from None


def _converted(name: str, value: Any, target: Any) -> Any:
    """Convert a single value."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = _scalar(value)
    if isinstance(value, bool):
        if target is bool:
            return value
    elif isinstance(value, Real):
        if target is float:
            return _as_float(name, value)
        if target is int and isinstance(value, Integral):
            return int(value)
        if target is int and float(value).is_integer():
            return int(float(value))
    elif isinstance(value, str) and (target is str or get_origin(target) is Literal):
        return str(value)
    raise _refused(name, value, target)


def _scalar(value: Any) -> Any:
    """A scalar of NumPy or JAX as one of Python. A float of fewer digits keeps those that it shows:
    float32 0.1 is 0.1, not 0.10000000149."""
    python = value.item()
    return float(str(value)) if isinstance(python, float) else python


def _as_float(name: str, value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(
            f"{name}: {reprlib.repr(value)} is too large; give a number of at most "
            f"{sys.float_info.max:.1e}."
        ) from None


def _refused(name: str, value: Any, target: Any) -> UserError:
    """The error for a value of another type."""
    if target is bool:
        expected = "neither true nor false"
    elif get_origin(target) is Literal:
        expected = f"none of {', '.join(choice for choice in get_args(target) if choice)}"
    elif get_origin(target) is tuple:
        expected = f"no list of {WORDS[get_args(target)[0]]}s"
    else:
        expected = f"no {WORDS[target]}"
    return UserError(f"{name}: {reprlib.repr(value)} is {expected}.")

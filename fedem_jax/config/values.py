"""A value in the type that a field of the settings declares, from text or from data.

text    `FIELD=VALUE` of a command    "0.1"    "true"    "16,8"
data    JSON, TOML or Python          0.1      true      [16, 8]

Fields are int, float, bool, str, a Literal of texts, or a tuple of int, float or str. What numbers
and choices a field may have is checked by the settings themselves, when they are made.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedem_jax.errors import UserError

WORDS = {int: "integer", float: "number", str: "text"}
"""What a value of a type is called in a sentence."""


def declared(kind: type, name: str) -> Any:
    """The type of a field of a class, without the range of its numbers."""
    return _types(kind)[name]


def from_text(kind: type, name: str, text: str, between: str = ",") -> Any:
    """The value that a text stands for.

    Args:
        kind: class of settings.
        name: of the field.
        between: what separates the entries of a tuple; an empty text is the empty tuple.

    Raises:
        UserError: the text is no value of this type; the sentence names field and text.
    """
    wanted = declared(kind, name)
    if get_origin(wanted) is not tuple:
        return _read(name, text, wanted)
    entry = get_args(wanted)[0]
    return tuple(_read(name, part, entry) for part in text.split(between)) if text else ()


def from_data(kind: type, name: str, value: Any) -> Any:
    """The value of a field, from JSON, TOML or Python. An integer is also a number, and a number
    without a fraction an integer; nothing else is converted.

    Raises:
        UserError: the value has another type; the sentence names field and value.
    """
    wanted = declared(kind, name)
    if get_origin(wanted) is not tuple:
        return _converted(name, value, wanted)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _refused(name, value, wanted)
    return tuple(_converted(name, each, get_args(wanted)[0]) for each in value)


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(name: str, text: str, wanted: Any) -> Any:
    """A text as a value; not yet checked against the choices of a Literal."""
    if wanted is str or get_origin(wanted) is Literal:
        return text
    try:
        return {"true": True, "false": False}[text.lower()] if wanted is bool else wanted(text)
    except (KeyError, ValueError):
        raise _refused(name, text, wanted) from None


def _converted(name: str, value: Any, wanted: Any) -> Any:
    """A single value in its type."""
    if isinstance(value, bool):
        if wanted is bool:
            return value
    elif isinstance(value, Real):  # of NumPy, too
        if wanted is float:
            return _as_float(name, value)
        if wanted is int and isinstance(value, Integral):
            return int(value)
        if wanted is int and float(value).is_integer():
            return int(float(value))
    elif isinstance(value, str) and (wanted is str or get_origin(wanted) is Literal):
        return value
    raise _refused(name, value, wanted)


def _as_float(name: str, value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(
            f"{name}: {reprlib.repr(value)} is too large; give a number of at most "
            f"{sys.float_info.max:.1e}."
        ) from None


def _refused(name: str, value: Any, wanted: Any) -> UserError:
    """The sentence on a value of another type."""
    if wanted is bool:
        expected = "neither true nor false"
    elif get_origin(wanted) is Literal:
        expected = f"none of {', '.join(choice for choice in get_args(wanted) if choice)}"
    elif get_origin(wanted) is tuple:
        expected = f"no list of {WORDS[get_args(wanted)[0]]}s"
    else:
        expected = f"no {WORDS[wanted]}"
    return UserError(f"{name}: {reprlib.repr(value)} is {expected}.")

"""Numbers and names that a setting accepts, as annotations of its field."""

from __future__ import annotations

import math
import reprlib
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from fedem_jax.config.plugins import Registered
from fedem_jax.errors import UserError, nearest


class Range(NamedTuple):
    """The numbers that a setting accepts."""

    low: float
    high: float = math.inf
    open: bool = False
    """Whether `low` itself is excluded."""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"in {'(' if self.open else '['}{self.low:g}, {self.high:g}]"
        return f"{'above' if self.open else 'of at least'} {self.low:g}"


MOST = 2**31 - 1
"""Largest integer of a setting. On the device an integer has 32 bits, and seeds that agree in them
would give the same draws."""

Natural = Annotated[int, Range(0)]
"""An integer of at least 0."""
Count = Annotated[int, Range(1)]
"""An integer of at least 1."""
Positive = Annotated[float, Range(0, open=True)]
"""A step size or a scale."""
Weight = Annotated[float, Range(0)]
"""A weight; 0 switches a term off."""
Share = Annotated[float, Range(0, 1, open=True)]
"""A fraction above 0."""
Portion = Annotated[float, Range(0, 1)]
"""A fraction; 0 is allowed."""


def check(name: str, kind: Any, value: Any) -> None:
    """Refuse a value outside the range or the choices in its annotation.

    Raises:
        UserError: the sentence names the field and what it accepts.
    """
    if get_origin(kind) is Annotated:
        if isinstance(value, int) and value > MOST:
            raise UserError(f"{name}: has too many digits; give a number of at most {MOST}.")
        for allowed in get_args(kind):
            if isinstance(allowed, Registered):
                allowed.check(name, str(value))
            if isinstance(allowed, Range) and value not in allowed:
                raise UserError(f"{name}: {value} is out of range; give a number {allowed}.")
    elif get_origin(kind) is tuple:
        for entry in value:
            check(name, get_args(kind)[0], entry)
    elif get_origin(kind) is Literal and value not in get_args(kind):
        choices = [choice for choice in get_args(kind) if choice]
        hint = nearest(str(value)[:40], choices)
        raise UserError(f"{name}: {reprlib.repr(value)} is unknown; {hint}.")

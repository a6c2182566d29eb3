"""Numbers as text for people: units, ranges and plurals."""

from __future__ import annotations

import re

UNITS = {"": 1} | {
    f"{letter}{binary}B".upper(): base**power
    for power, letter in enumerate(("", "k", "M", "G", "T"))
    for binary, base in (("", 1000), ("i", 1024))
}
"""Bytes of a unit, in capitals."""


def bytes_in(text: str) -> int:
    """The bytes that a text such as `80GB`, `1.5 TB` or `24GiB` names; 0: it names none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kMGT]?i?B)?", text.strip(), re.IGNORECASE)
    return int(float(found[1]) * UNITS[(found[2] or "").upper()]) if found else 0


def in_bytes(count: float) -> str:
    """A number of bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def in_seconds(seconds: float) -> str:
    """A measured duration with three digits and a unit."""
    for unit in ("s", "ms", "us"):
        if seconds >= 0.9995 or unit == "us":
            return f"{seconds:.3g} {unit}"
        seconds *= 1000
    raise AssertionError


def in_words(seconds: float) -> str:
    """An approximate duration: `12 s`, `3 min`, `1 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 run`, `2 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def in_span(low: float, high: float, form: str = ".4f") -> str:
    """A range, `0.1000 to 0.2000`; one number if both ends round to the same text."""
    ends = dict.fromkeys(f"{end:{form}}" for end in (low, high))
    return " to ".join(ends)

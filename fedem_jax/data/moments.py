"""Dates and datetimes as texts -> whole microseconds since 1970."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

_DAYS = re.compile(r"(\d\d?)([/.-])(\d\d?)\2(\d{4})(.*)", re.ASCII).fullmatch
_ISO = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).match
_YEAR_FIRST = re.compile(r"(\d{4})([/.])(\d\d?)\2(\d\d?)(.*)", re.ASCII).fullmatch
_CLOCK = re.compile(r"(|[ T]\d\d?:\d\d(:\d\d(\.\d+)?)?)", re.ASCII).fullmatch
_OTHERS = (
    "%m %d, %Y",  # reviewTime of the Amazon reviews
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %b %Y",
    "%a %b %d %H:%M:%S %z %Y",  # Foursquare
)


def is_date(text: str) -> bool:
    """Whether a text begins as a date in digits."""
    return bool(_ISO(text) or _DAYS(text) or _YEAR_FIRST(text))


def moments(texts: list[str]) -> np.ndarray | None:
    """[texts] int64 microseconds since 1970, or None if the texts are not all dates of one kind.

    ISO 8601 with or without clock and zone; 2015/01/31; 31.01.2015 (day first); 31/01/2015 and
    01/31/2015, also with dashes, if one of the dates has a day beyond 12; the forms in `_OTHERS`.
    Without a zone the time is taken as UTC.
    """
    if not texts:
        return None
    if all(map(_ISO, texts)):
        return _parsed(texts, format="ISO8601", utc=True)
    parts = [_YEAR_FIRST(text) for text in texts]
    if all(parts):
        return _from_parts([(p[1], p[3], p[4], p[5]) for p in parts if p])
    parts = [_DAYS(text) for text in texts]
    if all(parts):
        found = [p for p in parts if p]
        day_first = any(int(p[1]) > 12 for p in found)
        month_first = any(int(p[3]) > 12 for p in found)
        if all(p[2] == "." for p in found):
            day_first = not month_first or day_first
        if day_first == month_first:
            return None
        day, month = (1, 3) if day_first else (3, 1)
        return _from_parts([(p[4], p[month], p[day], p[5]) for p in found])
    if not all(any(map(str.isdigit, text)) for text in texts):
        return None  # pandas reads `today` in any form
    for form in _OTHERS:
        read = _parsed(texts, format=form, utc=True)
        if read is not None:
            return read
    return None


def _from_parts(parts: list[tuple[str, str, str, str]]) -> np.ndarray | None:
    """Year, month, day and clock as ISO 8601, read as such."""
    if not all(_CLOCK(clock) for _, _, _, clock in parts):
        return None
    iso = [
        f"{year}-{month:0>2}-{day:0>2}" + (f"T{clock[1:]}" if clock else "")
        for year, month, day, clock in ((y, m, d, _two_digits(c)) for y, m, d, c in parts)
    ]
    return _parsed(iso, format="ISO8601", utc=True)


def _two_digits(clock: str) -> str:
    return clock[0] + "0" + clock[1:] if clock[2:3] == ":" else clock


def _parsed(texts: list[str], **how) -> np.ndarray | None:
    try:
        read = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", **how)
    except (ValueError, OverflowError):
        return None
    if read.isna().any():
        return None
    return read.dt.as_unit("us").astype(np.int64).to_numpy()

"""What is in the rows of a ratings file, before anything is filtered or split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.data.interactions import Interactions

_UNITS = {"s": (1e8, 1e10), "ms": (1e11, 1e13), "us": (1e14, 1e16), "ns": (1e17, 9e18)}
"""Times since 1970 in these units, roughly from 1973 to 2286."""


class Facts(NamedTuple):
    """Counts and ranges of a file."""

    rows: int
    users: int
    items: int
    unrated: int
    """Rows with a rating of 0 or less, which a split drops."""
    repeated: int
    """Rows after the first of their user and item."""
    rating: tuple[float, float]
    """Smallest and largest."""
    time: str
    """Earliest and latest, as dates where the numbers can be moments since 1970."""
    tied: int
    """Users with equal times among their three latest rows."""
    sample: list[tuple[str, str, str, str]]
    """The first three rows: user, item, rating, time."""


def facts(interactions: Interactions) -> Facts:
    """Count what is in a file."""
    frame = interactions.frame
    return Facts(
        rows=len(frame),
        users=frame["user"].nunique(),
        items=frame["item"].nunique(),
        unrated=int((frame["rating"] <= 0).sum()),
        repeated=int(frame.duplicated(["user", "item"]).sum()),
        rating=(float(frame["rating"].min()), float(frame["rating"].max())),
        time=_span(frame["time"].to_numpy()),
        tied=_tied_users(frame),
        sample=[
            (str(user), str(item), f"{rating:g}", f"{time:.15g}" if time % 1 else str(int(time)))
            for user, item, rating, time in frame.head(3).itertuples(index=False, name=None)
        ],
    )


def _tied_users(frame: pd.DataFrame) -> int:
    """Users with equal times among their three latest rows, so that a rule decides the split."""
    latest = frame[["user", "time"]].sort_values("time", kind="stable").groupby("user").tail(3)
    return int(latest[latest.duplicated()]["user"].nunique())


def _span(times: np.ndarray) -> str:
    first, last = times.min(), times.max()
    for unit, (low, high) in _UNITS.items():
        if low <= first and last < high:
            days = [pd.Timestamp(int(end), unit=unit).date().isoformat() for end in (first, last)]
            return f"{first} to {last} ({days[0]} to {days[1]}, if {unit} since 1970)"
    return f"{first} to {last}"

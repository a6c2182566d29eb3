"""`ColumnsRead`: how the columns of a ratings file were understood."""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = ("user", "item", "rating", "time")


class ColumnsRead(NamedTuple):
    """What became user, item, rating and time, and how that was decided."""

    user: str
    item: str
    rating: str
    time: str
    by: str
    """name | position | setting | definition of the data set"""
    notes: tuple[str, ...] = ()
    """What else was found or guessed, such as the encoding."""
    cohort: str = ""
    """Column of the cohort, if one is declared."""

    def __str__(self) -> str:
        roles = (*COLUMNS, *(["cohort"] if self.cohort else []))
        parts = [f"{role} = {getattr(self, role)}" for role in roles]
        return "; ".join([f"{', '.join(parts)} (by {self.by})", *self.notes])

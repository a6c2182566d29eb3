"""Whether numbers can be what their column is taken for."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from fedem_jax.data.aliases import plain
from fedem_jax.data.cells import Table, short
from fedem_jax.data.moments import is_date
from fedem_jax.errors import UserError

LARGEST_RATING = 10_000_000
"""Of a column without a name. Counts of plays stay below, seconds since 1970 and dates above."""

_FEWEST = 20
"""Rows from which on small times are doubted."""

_SMALL = 100_000
"""Fractions below are no moments."""

_LOOKED_AT = 1000
"""Distinct labels that are looked at."""

_FRACTION = re.compile(r"-?\d+[.,]\d+", re.ASCII).fullmatch
_MOMENT = re.compile(r"\d{9,10}(\d{3}){0,3}(\.\d+)?", re.ASCII).fullmatch

_SETTLED = "set columns to the positions of user, item, rating and timestamp, such as 0 1 2 3"


def check(
    table: Table,
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray | None,
    time: np.ndarray | None,
) -> None:
    """Refuse labels that are ratings or times, a rating that is none, and a time that is an hour.

    Columns that a setting names are not doubted. Of columns with names, `time` and `date` are.

    Raises:
        UserError: the sentence shows the value, the first rows and the setting.
    """
    if table.by == "position":
        if rating is not None and (rating > LARGEST_RATING).any():
            value = rating[rating > LARGEST_RATING][0]
            raise _refused(
                table, f"the third column is taken for the rating, but holds {value:.15g}"
            )
        _check_labels(table, user, item, rating)
    called = table.columns.get("timestamp", "")
    named = table.by == "name" and plain(called) in ("time", "date")
    if time is None or not (named or table.by == "position"):
        return
    if len(time) < _FEWEST:
        return
    whole = (time % 1 == 0).all()
    if (time >= 0).all() and whole and ((time < 2400) & (time % 100 < 60)).all():
        which = f"column '{called}'" if named else "the fourth column"
        raise _refused(
            table,
            f"{which} is taken for the time, but holds only numbers from {time.min():.15g} to "
            f"{time.max():.15g}, as hours do",
        )
    if not named and not whole and (np.abs(time) < _SMALL).all():
        raise _refused(
            table,
            f"the fourth column is taken for the time, but holds fractions such as "
            f"{time[time % 1 != 0][0]:.15g}, as ratings do",
        )


def _check_labels(
    table: Table, user: np.ndarray, item: np.ndarray, rating: np.ndarray | None
) -> None:
    """Refuse the place of a user or an item if it holds ratings or times."""
    if len(user) < _FEWEST:
        return
    for place, role, values in (("first", "user", user), ("second", "item", item)):
        distinct = pd.unique(values)
        texts = [str(value) for value in distinct[:_LOOKED_AT]]
        if all(map(_FRACTION, texts)):
            trouble = "only numbers with a decimal point"
        elif all(_MOMENT(text) or is_date(text) for text in texts) and len(distinct) > 0.9 * len(
            values
        ):
            trouble = "a time in every row"
        else:
            continue
        raise _refused(
            table, f"the {place} column is taken for the {role}, but holds {trouble} ({texts[0]})"
        )
    if rating is not None and len(pd.unique(rating)) > len(pd.unique(item)):
        raise _refused(
            table,
            "the second column is taken for the item and the third for the rating, but there are "
            "more ratings than items",
        )


def check_time(table: Table, time: np.ndarray | None, order: str) -> None:
    """Refuse a file without times, unless a setting says in which order its rows are.

    Raises:
        UserError: the sentence shows the first rows and names the choices.
    """
    if time is None and not order:
        listed = ", ".join(f"'{name}'" for name in table.others[:6])
        or_columns = f", or name the time in columns if it is one of {listed}" if listed else ""
        raise UserError(
            f"{table.path}: has no times, so nothing says which items of a user are the latest "
            f"and held out{_rows(table)}; set order to file if the rows are in order of time, to "
            "random to draw the order by the seed, or to item-appearance as papers do for "
            f"FilmTrust{or_columns}."
        )


def _refused(table: Table, complaint: str) -> UserError:
    return UserError(f"{table.path}: {complaint}{_rows(table)}; {_SETTLED}.")


def _rows(table: Table) -> str:
    rows = " and ".join(f"'{short(row)}'" for row in table.sample[:2])
    return f" (first rows: {rows})" if rows else ""

"""Finds the columns of a ratings file: user, item, rating and timestamp."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from fedem_jax.data.cells import short
from fedem_jax.errors import UserError

ROLES = ("user", "item", "rating", "timestamp")
"""What a column can be, in the order of the setting `columns`."""

MOST_COLUMNS = 10_000
"""Most columns that a file may have."""

_LISTED = 12
"""Most columns that a message lists."""


def names_columns(first: list[str], columns: tuple[str, ...]) -> bool:
    """Whether the first line names the columns, for `header="auto"`.

    It does if `columns` gives names, or the line names two of `ROLES`. It also does if its rating
    or timestamp is not a number.
    """
    if any(column and not column.isdecimal() for column in columns):
        return True
    if len(_by_name(first)) > 1:
        return True
    numeric = [_position(column) for column in columns[2:] if column] if columns else [2, 3]
    cells = [first[position] for position in numeric if position < len(first)]
    return any(cell and not _is_number(cell) for cell in cells)


def locate(path: Path, first: list[str], columns: tuple[str, ...], named: bool) -> dict[str, int]:
    """Position of each role that the file holds.

    Args:
        path: the file, for messages.
        first: cells of the first line, or the names of the columns in a parquet file.
        columns: as in `fedem_jax.data.readers.read`.
        named: whether `first` holds names.

    Raises:
        UserError: a column does not exist, is given twice, or there are more than `MOST_COLUMNS`.
    """
    if len(first) > MOST_COLUMNS:
        raise UserError(
            f"{path}: has {len(first)} columns, more than {MOST_COLUMNS}; set separator to the one "
            "the file uses, or give a file with fewer."
        )
    if not columns:
        known = _by_name(first) if named else {}
        if "user" in known and "item" in known:
            return known
        in_order = {role: position for position, role in enumerate(ROLES[: len(first)])}
        if any(in_order.get(role) != position for role, position in known.items()):
            missing = "item" if "user" in known else "user"
            raise UserError(
                f"{path}: has no column '{missing}' but {_listed(first)}; set columns to the "
                "names of user, item, rating and timestamp."
            )
        return in_order
    shown = short(",".join(columns))
    if not 2 <= len(columns) <= len(ROLES) or not all(columns[:2]):
        raise UserError(
            f"columns: '{shown}' does not say where user and item stand; give names "
            "or positions of user, item and, if there are any, rating and timestamp."
        )
    positions = {}
    for role, column in zip(ROLES, columns, strict=False):
        if column in first and named:
            positions[role] = first.index(column)
        elif column.isdecimal() and _position(column) < len(first):
            positions[role] = _position(column)
        elif column.isdecimal():
            raise UserError(
                f"{path}: has no column {short(column)} for the {role}; its {len(first)} columns "
                "are counted from 0, or another separator is needed."
            )
        elif column:
            close = difflib.get_close_matches(column, first[:_LISTED], n=1)
            hint = f"did you mean '{short(close[0])}'? " if close else ""
            raise UserError(
                f"{path}: has no column '{short(column)}'; {hint}known: {_listed(first)}."
            )
    if len(set(positions.values())) < len(positions):
        raise UserError(f"columns: '{shown}' uses one column twice; give each once.")
    return positions


def _by_name(first: list[str]) -> dict[str, int]:
    """Position of each role that the first line names, as in `user`, `User_ID` or `userId`."""
    names = [re.sub("[^a-z0-9]", "", cell.lower()).removesuffix("id") for cell in first]
    return {role: names.index(role) for role in ROLES if role in names}


def _position(column: str) -> int:
    """A position in decimal digits; `MOST_COLUMNS` if it has ten digits or more."""
    return int(column) if len(column) < 10 else MOST_COLUMNS


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(short(name) for name in names[:_LISTED]) + rest


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

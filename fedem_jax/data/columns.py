"""Finds the columns of a ratings file: user, item, rating and timestamp."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, NamedTuple

from fedem_jax.data.aliases import by_name
from fedem_jax.data.cells import short
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.lines import is_value
from fedem_jax.errors import UserError

ROLES = ("user", "item", "rating", "timestamp")
"""What a column can be, in the order of the setting `columns`."""
COHORT = "cohort"
"""A further column, if the setting `cohort` names one."""

MOST_COLUMNS = 10_000
"""Most columns that a file may have."""

_LISTED = 12
"""Most columns that a message lists."""


class Found(NamedTuple):
    """The columns in use."""

    positions: dict[str, int]
    """Position of each role that the file holds."""
    by: str
    """name, position or setting."""


def kind_of_line(
    first: list[str], second: list[str], columns: tuple[str, ...]
) -> Literal["names", "row", "unclear"]:
    """What the first line of a file is, for `header="auto"`.

    It names the columns if `columns` gives names, or if it names user and item. It is a row if it
    has numbers or dates where the next line has some: as rating and timestamp, and in one of the
    labels at least. Else it may name a few roles, and the rest is asked for.
    """
    if any(column and not column.isdecimal() for column in columns):
        return "names"
    known, items = by_name(first)
    some = len(known) > 1 or bool(items)
    if {"user", "item"} <= known.keys() or (some and not second):
        return "names"
    numeric = [_position(column) for column in columns if column] if columns else [0, 1, 2, 3]
    pairs = [
        is_value(first[position]) or not is_value(second[position])
        for position in numeric
        if position < min(len(first), len(second))
    ]
    labels, values = pairs[:2], pairs[2:]
    if all(values) and (any(labels) or not labels):
        return "row"
    used = [first[position] for position in numeric if position < len(first)]
    return "names" if some or (columns and not any(map(is_value, used))) else "unclear"


def locate(path: Path, first: list[str], form: FileFormat, named: bool, shown: str = "") -> Found:
    """Find the columns of the roles, and that of the cohort if one is declared.

    Args:
        path: the file, for messages.
        first: names of the columns, or the cells of the first row.
        form: how the file is read.
        named: whether `first` holds names.
        shown: the first rows, for messages.

    Raises:
        UserError: a column does not exist or is given twice, user and item are not named, or there
            are more than `MOST_COLUMNS`.
    """
    if len(first) > MOST_COLUMNS:
        raise UserError(
            f"{path}: has {len(first)} columns, more than {MOST_COLUMNS}; set separator to the one "
            "the file uses, or give a file with fewer."
        )
    found = _roles(path, first, form.columns, named, shown)
    if not form.cohort:
        return found
    cohort = _at(path, first, form.cohort, COHORT, named)
    roles = [role for role, position in found.positions.items() if position == cohort]
    if roles:
        raise UserError(
            f"cohort: '{short(form.cohort)}' is the column of the {roles[0]} in {path}; give "
            "another column."
        )
    return found._replace(positions=found.positions | {COHORT: cohort})


def _roles(
    path: Path, first: list[str], columns: tuple[str, ...], named: bool, shown: str
) -> Found:
    """The columns of user, item, rating and timestamp; arguments and errors as in `locate`."""
    known, items = by_name(first) if named else ({}, [])
    if columns:
        return Found(_by_setting(path, first, columns, named, known), "setting")
    if not named:
        return Found(
            {role: position for position, role in enumerate(ROLES[: len(first)])}, "position"
        )
    if items:
        listed = ", ".join(f"'{short(first[position])}'" for position in items)
        raise UserError(
            f"{path}: has several columns that could be the item: {listed}; set columns to the "
            "names of user, item, rating and timestamp."
        )
    missing = [f"'{role}'" for role in ROLES[:2] if role not in known]
    if missing:
        rows = f" (first rows: {shown})" if shown else ""
        raise UserError(
            f"{path}: has no column {' or '.join(missing)} but {_listed(first)}{rows}; set columns "
            "to the names of user, item, rating and timestamp."
        )
    return Found(known, "name")


def _by_setting(
    path: Path, first: list[str], columns: tuple[str, ...], named: bool, known: dict[str, int]
) -> dict[str, int]:
    """The columns of the setting; a rating or timestamp that it leaves out is found by name."""
    shown = short(",".join(columns))
    if not 2 <= len(columns) <= len(ROLES) or not all(columns[:2]):
        raise UserError(
            f"columns: '{shown}' does not say where user and item stand; give names "
            "or positions of user, item and, if there are any, rating and timestamp."
        )
    positions = {}
    for role, column in zip(ROLES, columns, strict=False):
        if column:
            positions[role] = _at(path, first, column, role, named)
    if len(set(positions.values())) < len(positions):
        raise UserError(f"columns: '{shown}' uses one column twice; give each once.")
    left_out = {role: known[role] for role in ROLES[len(columns) :] if role in known}
    return positions | {role: at for role, at in left_out.items() if at not in positions.values()}


def _at(path: Path, first: list[str], column: str, role: str, named: bool) -> int:
    """Position of a column that a setting names, or gives the position of."""
    if column in first and named:
        return first.index(column)
    if column.isdecimal() and _position(column) < len(first):
        return _position(column)
    if column.isdecimal():
        raise UserError(
            f"{path}: has no column {short(column)} for the {role}; its {len(first)} columns "
            "are counted from 0, or another separator is needed."
        )
    close = difflib.get_close_matches(column, first[:_LISTED], n=1)
    hint = f"did you mean '{short(close[0])}'? " if close else ""
    raise UserError(f"{path}: has no column '{short(column)}'; {hint}known: {_listed(first)}.")


def called(
    first: list[str], positions: dict[str, int], named: bool, form: FileFormat
) -> dict[str, str]:
    """What each role is called: the name of its column, or its position if that was given."""
    by_position = (*form.columns, form.cohort)
    return {
        role: f"column {at}" if not named or str(at) in by_position else short(first[at])
        for role, at in positions.items()
    }


def _position(column: str) -> int:
    """A position in decimal digits; `MOST_COLUMNS` if it has ten digits or more."""
    return int(column) if len(column) < 10 else MOST_COLUMNS


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(short(name) for name in names[:_LISTED]) + rest

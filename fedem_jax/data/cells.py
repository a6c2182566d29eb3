"""Turns the cells of a ratings file into labels and numbers.

A cell is checked as it stands in the file. So a message can quote it, and `007` stays `007`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fedem_jax.data.moments import is_date, moments
from fedem_jax.errors import UserError

LONGEST_LABEL = 1000
"""Most characters that the label of a user or an item may have."""

EXACT = 2**53
"""Above this, float64 skips whole numbers, so two different timestamps could become equal."""

_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII).fullmatch

_COMMA = re.compile(r"[-+]?\d+(,\d+)?", re.ASCII).fullmatch

_NO_GROUP = re.compile(r"[-+]?\d+,(\d{1,2}|\d{4,})", re.ASCII).fullmatch
"""A comma that cannot stand between thousands."""


@dataclass(frozen=True)
class Table:
    """The cells of the columns in use, not yet checked."""

    path: Path
    """The file, for messages."""
    cells: pd.DataFrame
    """One column per role in the file; the index numbers the records of the file from 0."""
    place: Callable[[int], str]
    """Record number -> where it stands in words, such as `line 7`."""
    columns: dict[str, str] = field(default_factory=dict)
    """What each role is called in the file."""
    by: str = ""
    """How the columns were found: name, position or setting."""
    others: tuple[str, ...] = ()
    """Names of columns that nobody asked for."""
    sample: tuple[str, ...] = ()
    """The first rows, for messages."""
    decimal: str = ""
    """Decimal point, by setting."""
    notes: list[str] = field(default_factory=list)
    """What was guessed on the way."""

    def refuse(self, row: int, complaint: str) -> UserError:
        """The error about a row of `cells`: its place in the file, then `complaint`."""
        return UserError(f"{self.path}, {self.place(int(self.cells.index[row]))}: {complaint}")


def labels(table: Table, role: str) -> np.ndarray:
    """[rows] labels: int64 if all are plain whole numbers of at most 18 digits, else str.

    Blanks around a label are dropped. `1.0`, `007` and `1e3` stay text. No label is rounded, so
    different labels stay different.

    Raises:
        UserError: a label is empty, holds a line break or is longer than `LONGEST_LABEL`.
    """
    codes, distinct = pd.factorize(table.cells[role])  # each distinct label is checked once
    texts = np.array([str(label).strip() for label in distinct] + [""], dtype=object)
    bad = np.array([not 0 < len(text) <= LONGEST_LABEL or "\n" in text for text in texts])[codes]
    if bad.any():  # a missing label has code -1, which is the empty text at the end
        row = int(bad.argmax())
        text = str(texts[codes[row]])
        trouble = f"label '{short(text)}' holds a line break" if text else "label is empty"
        if len(text) > LONGEST_LABEL:
            trouble = f"label '{short(text)}' has {len(text)} characters, more than {LONGEST_LABEL}"
        raise table.refuse(row, f"the {role} {trouble}; mend or delete the row.")
    if all(_WHOLE(text) for text in texts[:-1]):
        return texts[:-1].astype(np.int64)[codes]
    return texts[codes]


def numbers(table: Table, role: str) -> np.ndarray | None:
    """[rows] finite numbers; None if there is no such column.

    They are int64 if all are written as whole numbers, else float64. Ratings may be the words true
    and false, which are 1 and 0. Timestamps may be dates (`fedem_jax.data.moments`).

    Raises:
        UserError: a cell is empty, not a finite number, or a timestamp that would lose digits.
    """
    if role not in table.cells:
        return None
    integers = _whole_numbers(table.cells[role])
    if integers is not None:
        return integers
    codes, distinct = pd.factorize(table.cells[role], use_na_sentinel=False)
    texts = [str(cell).strip() for cell in distinct]
    if role == "rating" and {text.lower() for text in texts} <= {"true", "false"}:
        return np.array([int(text.lower() == "true") for text in texts])[codes]
    cells = list(distinct)
    if _has_decimal_commas(table, texts):
        cells = ["" if "." in text else text.replace(",", ".") for text in texts]
    values = np.asarray(pd.to_numeric(pd.Series(cells), errors="coerce"))
    if role == "timestamp" and not np.isfinite(values.astype(np.float64)).any():
        dates = moments(texts)
        if dates is not None:
            table.notes.append("time is a date, as microseconds since 1970")
            return dates[codes]
    if values.dtype != np.int64:
        values = values.astype(np.float64)
    bad = ~np.isfinite(values)[codes]
    if bad.any():
        row = int(bad.argmax())
        cell = str(distinct[codes[row]]).strip()
        raise table.refuse(row, f"the {role} {_trouble(role, cell)}.")
    lost = (np.abs(values) >= EXACT)[codes]
    if role == "timestamp" and values.dtype != np.int64 and lost.any():
        row = int(lost.argmax())
        cell = short(str(distinct[codes[row]]).strip())
        raise table.refuse(
            row,
            f"the {role} '{cell}' is too large to keep its digits beside timestamps that are not "
            "whole numbers of 64 bits; give all of them in one coarser unit.",
        )
    return values[codes]


def _trouble(role: str, cell: str) -> str:
    """What is wrong with a cell that is no number, and the remedy."""
    trouble = f"'{short(cell)}' is no finite number" if cell else "is empty"
    if role == "timestamp" and is_date(cell):
        remedy = (
            "write timestamps as numbers, such as seconds since 1970, or all as dates such as "
            "2015-01-31 12:00:00 (of 01/02/2015 the day is not clear)"
        )
    elif _COMMA(cell):
        remedy = "set decimal to ',' if the comma is the decimal point"
    else:
        remedy = "mend the row, or check columns, separator and header"
    return f"{trouble}; {remedy}"


def _has_decimal_commas(table: Table, texts: list[str]) -> bool:
    """Whether the comma is the decimal point, by setting or beyond doubt."""
    if table.decimal:
        return table.decimal == ","
    found = all(map(_COMMA, texts)) and any(map(_NO_GROUP, texts))
    if found:
        table.notes.append("decimal comma")
    return found


def _whole_numbers(cells: pd.Series) -> np.ndarray | None:
    """The cells as int64 if Arrow reads all of them so, else None.

    It is fast for millions of distinct values.
    """
    if cells.dtype == np.int64:
        return cells.to_numpy()
    texts = pa.array(cells)
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return None
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():  # 0x10 is no number here
        return None
    try:
        return texts.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None


def short(text: str, most: int = 40) -> str:
    """A text cut to `most` characters and escaped, for a one-line message."""
    text = text[: most + 1]
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= most else text[: most - 3] + "..."

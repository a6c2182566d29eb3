"""Ratings files of any common shape -> `Interactions`, or one sentence that says what to mend.

Every cell is first read as text, so that a message can quote what the file really says and
labels like `007` survive; numbers are made of it afterwards.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError
from fedem_jax.protocol import nearest

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = ("user", "item", "rating", "timestamp")
"""What a column can be, in the order of the setting `columns`."""

_GUESSES = ("::", "\t", ",", ";", "|", " ")
"""Separators looked for in the first line when neither setting nor suffix tells."""

_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII).fullmatch

_UNIT = "\x1f"
"""Stands in for separators of several bytes, so that the fast parser can be used for them."""


def read(
    path: str | Path,
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """Read a CSV, TSV, parquet or otherwise separated file.

    columns: names or positions (from 0) of user, item, rating, timestamp. The last two may be left
        out, a rating alone also by an empty name. Empty: the columns of these names, else the
        first ones in this order.
    separator: empty: comma for .csv, tab for .tsv, else the one found in the first line. A blank
        stands for any run of blanks.
    header: `yes`, `no`, or `auto`: the first line names the columns if its rating or timestamp is
        no number (in a file without both: if it holds the names user and item).

    Raises:
        UserError: the file cannot be read or holds something that is no interaction; the sentence
            names file, line (from 1, as in an editor) and value, and what to do.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the ratings file in it.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    if path.suffix.lower() in (".parquet", ".pq"):
        table = _parquet_table(path, content, columns)
    else:
        table = _text_table(path, content, columns, separator, header)
    if table.cells.empty:
        raise UserError(f"{path}: holds no interactions; give a file with at least one row.")
    user, item = (_labels(table, role) for role in ROLES[:2])
    rating, time = (_numbers(table, role) for role in ROLES[2:])
    return Interactions.of(user, item, rating, time)


@dataclass(frozen=True)
class _Table:
    """The cells of the wanted columns, not yet judged."""

    path: Path
    cells: pd.DataFrame  # one column per role present; the index numbers the file's records from 0
    text: str | None  # what the records were parsed from; None: no text file
    separator: str = ","

    def refuse(self, row: int, complaint: str) -> UserError:
        """The error about a row of `cells`: `complaint` after the place."""
        record = self.cells.index[row]
        if self.text is None:
            place = f"row {record + 1}"
        elif '"' not in self.text:
            place = f"line {record + 1}"
        else:  # quoted cells may hold line breaks
            place = f"line {_line_of(record, self.text, self.separator)}"
        return UserError(f"{self.path}, {place}: {complaint}")


# text files


def _text_table(path: Path, content: bytes, columns, separator: str, header: str) -> _Table:
    text = _decode(path, content)
    written = re.search(r"^.*\S.*$", text, re.MULTILINE)
    if written is None:
        raise UserError(f"{path}: is empty; give a file with at least one row.")
    first_line = written[0]
    separator = separator.replace("\\t", "\t") or _guess_separator(path, first_line)
    if separator in ('"', "\n", "\r") or "\0" in separator:
        raise UserError(f"separator: {separator!r} cannot separate columns; give another one.")
    shown = separator
    if len(separator.encode()) > 1:
        text, first_line = (part.replace(separator, _UNIT) for part in (text, first_line))
        separator = _UNIT

    first = _first_cells(path, first_line, separator)
    if len(first) < 2:
        line = text.count("\n", 0, written.start()) + 1
        raise UserError(
            f"{path}, line {line}: '{_short(first_line)}' is a single column when cut at "
            f"{shown!r}; set separator to the one the file uses."
        )
    named = header == "yes" or (header == "auto" and _names_columns(first, columns))
    positions = _locate(path, first, columns, named)
    cells = _parse(path, text, separator, positions, len(first))
    cells = cells[(cells != "").any(axis=1)]  # without the blank lines
    return _Table(path, cells.iloc[1:] if named else cells, text, separator)


def _first_cells(path: Path, line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    try:
        return [cell.strip() for cell in next(_records(line, separator))]
    except csv.Error:
        raise UserError(f"{path}: its first line is no table; give a ratings file.") from None


def _decode(path: Path, content: bytes) -> str:
    """UTF-8 text without byte order mark, lines ending in a line feed."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: is not UTF-8 text; unpack it if it is an archive, else save it "
            "as UTF-8."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds binary data; give a text or parquet file.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess_separator(path: Path, line: str) -> str:
    by_suffix = {".csv": ",", ".tsv": "\t"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    return next((guess for guess in _GUESSES if guess in line.strip()), ",")


def _names_columns(first: list[str], columns: tuple[str, ...]) -> bool:
    """Whether the cells of the first line name the columns (header = auto)."""
    if any(column and not column.isdecimal() for column in columns):
        return True
    if len(_by_name(first)) > 1:
        return True
    wanted = [int(column) for column in columns[2:] if column] if columns else [2, 3]
    numbers = [first[position] for position in wanted if position < len(first)]
    return any(cell and _float(cell) is None for cell in numbers)


def _by_name(first: list[str]) -> dict[str, int]:
    """Position of each role that the first line names, as in `user`, `User_ID` or `userId`."""
    plain = [re.sub("[^a-z0-9]", "", cell.lower()).removesuffix("id") for cell in first]
    return {role: plain.index(role) for role in ROLES if role in plain}


def _locate(path: Path, first: list[str], columns: tuple[str, ...], named: bool) -> dict[str, int]:
    """Position of each role that the file holds."""
    if not columns:
        known = _by_name(first) if named else {}
        if "user" in known and "item" in known:
            return known
        in_order = {role: position for position, role in enumerate(ROLES[: len(first)])}
        if any(in_order.get(role) != position for role, position in known.items()):
            missing = "item" if "user" in known else "user"
            raise UserError(
                f"{path}: has no column '{missing}' but {', '.join(first)}; set columns to the "
                "names of user, item, rating and timestamp."
            )
        return in_order
    if not 2 <= len(columns) <= len(ROLES) or not all(columns[:2]):
        raise UserError(
            f"columns: {','.join(columns)!r} does not say where user and item stand; give names "
            "or positions of user, item and, if there are any, rating and timestamp."
        )
    positions = {}
    for role, column in zip(ROLES, columns, strict=False):
        if column in first and named:
            positions[role] = first.index(column)
        elif column.isdecimal() and int(column) < len(first):
            positions[role] = int(column)
        elif column.isdecimal():
            raise UserError(
                f"{path}: has no column {column} for the {role}; its {len(first)} columns are "
                "counted from 0, or another separator is needed."
            )
        elif column:
            raise UserError(f"{path}: has no column '{column}'; {nearest(column, first)}.")
    if len(set(positions.values())) < len(positions):
        raise UserError(f"columns: {','.join(columns)!r} uses one column twice; give each once.")
    return positions


def _parse(path: Path, text: str, separator: str, positions: dict[str, int], width: int):
    """All records as text; a blank line is a record of empty cells, to keep count of the lines."""
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=r"\s+" if separator == " " else separator,
            header=None,
            names=range(width),
            index_col=False,
            usecols=sorted(positions.values()),
            dtype=str,
            na_filter=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except pd.errors.ParserError as error:
        place = re.search(r"(row|line) (\d+)", str(error))
        line = "" if place is None else f", line {int(place[2]) + (place[1] == 'row')}"
        open_quote = "EOF inside string" in str(error)
        trouble = "opens a quote that nothing closes" if open_quote else "is no table"
        raise UserError(f"{path}{line}: {trouble}; mend it or set another separator.") from None
    return cells.rename(columns={position: role for role, position in positions.items()})


def _records(text: str, separator: str):
    return csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)


def _line_of(record: int, text: str, separator: str) -> int:
    """Line, from 1, on which a record starts; only errors pay for this second reading."""
    reader = _records(text, separator)
    try:
        for _ in range(record):
            next(reader)
    except (csv.Error, StopIteration):  # cut otherwise than by the parser: the next best answer
        return record + 1
    return reader.line_num + 1


# parquet files


def _parquet_table(path: Path, content: bytes, columns: tuple[str, ...]) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        first = file.schema_arrow.names
        if len(first) < 2:
            raise UserError(f"{path}: has fewer than two columns; give a file with user and item.")
        positions = _locate(path, first, columns, named=True)
        table = file.read(columns=[first[position] for position in positions.values()])
        kinds = [_plain(column.type) for column in table.columns]
        schema = pa.schema(list(zip(positions, kinds, strict=True)))
        cells = table.rename_columns(list(positions)).cast(schema).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = _short(str(error).split("\n")[0])
        raise UserError(f"{path}: is no readable parquet file ({reason}).") from None
    return _Table(path, cells, text=None)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type a parquet column is read as: a moment as a count of its unit, a code as its text."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return kind
    return pa.float64() if pa.types.is_decimal(kind) else pa.string()


# cells


def _labels(table: _Table, role: str) -> np.ndarray:
    """[rows] labels: int64 if all are plain whole numbers, else str."""
    codes, distinct = pd.factorize(table.cells[role])  # a label is judged once, not in every row
    texts = np.array([str(label).strip() for label in distinct] + [""], dtype=object)
    bad = np.array([not text or "\n" in text for text in texts])[codes]  # code -1: missing
    if bad.any():
        row = int(bad.argmax())
        text = str(texts[codes[row]])
        trouble = f"label '{_short(text)}' holds a line break" if text else "label is empty"
        raise table.refuse(row, f"the {role} {trouble}; mend or delete the row.")
    if all(_WHOLE(text) for text in texts[:-1]):
        return texts[:-1].astype(np.int64)[codes]
    return texts[codes]


def _numbers(table: _Table, role: str) -> np.ndarray | None:
    """[rows] finite numbers, int64 if all are whole and written so; None: no such column."""
    if role not in table.cells:
        return None
    codes, distinct = pd.factorize(table.cells[role], use_na_sentinel=False)
    numbers = pd.to_numeric(distinct, errors="coerce").to_numpy()
    if numbers.dtype != np.int64:
        numbers = numbers.astype(np.float64)
    bad = ~np.isfinite(numbers)[codes]
    if bad.any():
        row = int(bad.argmax())
        cell = _short(str(distinct[codes[row]]))
        trouble = f"'{cell}' is no finite number" if cell else "is empty"
        raise table.refuse(
            row,
            f"the {role} {trouble}; mend the row, or check columns, separator and header.",
        )
    return numbers[codes]


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _short(text: str, most: int = 40) -> str:
    """`text` fit for a one-line message."""
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= most else text[: most - 3] + "..."

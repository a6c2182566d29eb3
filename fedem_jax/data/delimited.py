"""Reads text files: bytes -> the table of the columns in use, every cell as text.

The tokenizer of pandas pads every record to the widest one before it. One long line and many short
ones would then cost their product in time and memory. `_check_widths` refuses such files first.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fedem_jax.data.cells import Table, short
from fedem_jax.data.columns import MOST_COLUMNS, locate, names_columns
from fedem_jax.errors import UserError

_GUESSES = ("::", "\t", ",", ";", "|", " ")
"""Separators tried on the first line if neither the setting nor the suffix gives one."""

_UNIT = "\x1f"
"""Replaces separators of several bytes, because the fast parser takes a single byte."""

_CHUNK = 2**22
"""Characters that are counted at a time."""

_PADDING = 20
"""Most cells per character of text once records are padded to the widest; 1 if all are alike."""

_SMALL = 10_000_000
"""Cells, padding included, that are always allowed."""

_UNICODE = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip
_ARCHIVES = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf\x27\x1c": "7z",
}  # fmt: skip


def text_table(
    path: Path, content: bytes, columns: tuple[str, ...], separator: str, header: str
) -> Table:
    """Cut a text file into the cells of the columns in use.

    Args:
        path: the file, for its suffix and for messages.
        content: bytes of the file.
        columns, separator, header: as in `fedem_jax.data.readers.read`.

    Raises:
        UserError: the content is not text or not a table, or a column does not exist.
    """
    text = _decode(path, content)
    start = _first_line(text)
    if start < 0:
        raise UserError(f"{path}: is empty; give a file with at least one row.")
    end = text.find("\n", start)
    first_line = text[start : end if end >= 0 else None]
    separator = separator.replace("\\t", "\t") or _guess_separator(path, first_line)
    if '"' in separator or not separator.replace("\t", " ").isprintable():
        raise UserError(f"separator: {separator!r} cannot separate columns; give another one.")
    before = text.count("\n", 0, start)  # a blank line counts as a record
    shown = separator
    if separator == " " or len(separator.encode()) > 1:
        if _UNIT in text:
            line = text.count("\n", 0, text.index(_UNIT)) + 1
            raise UserError(f"{path}, line {line}: holds a control character; delete it.")
        text, first_line = (_with_marks(path, part, separator) for part in (text, first_line))
        separator = _UNIT

    if first_line.count(separator) >= MOST_COLUMNS:
        raise _too_wide(path, f"line {before + 1}", shown)
    first = _first_cells(path, first_line, separator)
    if len(first) < 2:
        raise UserError(
            f"{path}, line {before + 1}: '{short(first_line)}' is a single column when cut at "
            f"{shown!r}; set separator to the one the file uses."
        )
    named = header == "yes" or (header == "auto" and names_columns(first, columns))
    positions = locate(path, first, columns, named)
    widest = _check_widths(path, text, separator, shown)
    # pandas finds no columns behind a quarter of a million blank lines
    body = text[_first_line(text) :]
    cells = _parse(path, body, before, separator, positions, max(widest, len(first)))
    if separator == _UNIT and '"' in text:  # a quoted mark is no separator
        cells = cells.replace(_UNIT, shown, regex=True)
    if named:
        cells = cells[cells.index > before]
    cells = cells[(cells != "").any(axis=1)]  # drop blank lines
    return Table(path, cells, partial(_place, text if '"' in text else None, separator))


def _first_line(text: str) -> int:
    """Where the first line that is not blank begins; -1 if there is none."""
    written = re.search(rf"[\S{_UNIT}]", text)
    return -1 if written is None else text.rfind("\n", 0, written.start()) + 1


def _decode(path: Path, content: bytes) -> str:
    """The content as text, without byte order mark, with a line feed at the end of each line.

    Raises:
        UserError: the content is not UTF-8 text.
    """
    for magic, kind in _UNICODE.items():
        if content.startswith(magic):
            raise UserError(f"{path}: is {kind} text; save it as UTF-8.")
    for magic, kind in _ARCHIVES.items():
        if content.startswith(magic):
            raise UserError(f"{path}: is a {kind} archive; unpack it and give the file in it.")
    if content.startswith(b"PAR1") and content.endswith(b"PAR1"):
        raise UserError(f"{path}: is a parquet file; name it so that it ends in .parquet.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text; save it as UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds binary data; give a text or parquet file.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess_separator(path: Path, line: str) -> str:
    by_suffix = {".csv": ",", ".tsv": "\t"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    return next((guess for guess in _GUESSES if guess in line.strip()), ",")


def _with_marks(path: Path, text: str, separator: str) -> str:
    """The text with `_UNIT` in place of each separator.

    If the separator is a blank, each run of blanks and tabs outside of quotes is one separator.
    """
    if separator != " ":
        return text.replace(separator, _UNIT)
    out = io.BytesIO()
    written = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(written, delimiter=_UNIT, lineterminator="\n")
    for record in _records(path, text.replace("\t", " "), " "):
        ends_in_blanks = bool(record) and not record[-1]
        writer.writerow(record[:-1] if ends_in_blanks else record)
    return out.getvalue().decode()


def _first_cells(path: Path, line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(_records(path, line, separator))]


def _check_widths(path: Path, text: str, separator: str, shown: str) -> int:
    """An upper bound of the columns of the widest record.

    Raises:
        UserError: a record has more than `MOST_COLUMNS`, or far more than most others.
    """
    widest, at, records = 0, 0, 0
    for chunk in _widths(path, text, separator):
        if len(chunk) and chunk.max() > widest:
            widest, at = int(chunk.max()), records + int(chunk.argmax())
        records += len(chunk)
    if widest <= MOST_COLUMNS and widest * records <= max(_SMALL, _PADDING * len(text)):
        return widest
    place = _place(text if '"' in text else None, separator, at)
    if widest > MOST_COLUMNS:
        raise _too_wide(path, place, shown)
    raise UserError(
        f"{path}, {place}: has {widest} columns, far more than most others; mend it or set "
        "another separator."
    )


def _too_wide(path: Path, place: str, shown: str) -> UserError:
    return UserError(
        f"{path}, {place}: has more than {MOST_COLUMNS} columns when cut at {shown!r}; set "
        "separator to the one the file uses."
    )


def _widths(path: Path, text: str, separator: str):
    """Columns of each record, in arrays. Before the last quote a record may span several lines."""
    start = _after_quotes(text)
    yield np.array([len(record) for record in _records(path, text[:start], separator)], int)
    before = 0  # separators since the last line feed
    for chunk in range(start, len(text), _CHUNK):
        codes = np.frombuffer(text[chunk : chunk + _CHUNK].encode(), np.uint8)
        gaps = np.cumsum(codes == ord(separator))
        ends = gaps[np.flatnonzero(codes == ord("\n"))]
        yield np.diff(ends, prepend=-before) + 1
        before = int(gaps[-1] - (ends[-1] if len(ends) else -before))
    yield np.array([before + 1])


def _after_quotes(text: str) -> int:
    """Where the first line after the last quote begins; 0 if there are no quotes."""
    last = text.rfind('"')
    end = text.find("\n", last)
    return 0 if last < 0 else len(text) if end < 0 else end + 1


def _parse(
    path: Path, text: str, before: int, separator: str, positions: dict[str, int], width: int
) -> pd.DataFrame:
    """The cells of all records as text, indexed by record number.

    A blank line is a record of empty cells, so that the numbers stay right. `before` blank lines
    stand ahead of the text.
    """
    try:
        cells = pd.read_csv(
            io.BytesIO(text.encode()),
            sep=separator,
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
        line = "" if place is None else f", line {before + int(place[2]) + (place[1] == 'row')}"
        open_quote = "EOF inside string" in str(error)
        trouble = "opens a quote that nothing closes" if open_quote else "is no table"
        raise UserError(f"{path}{line}: {trouble}; mend it or set another separator.") from None
    cells.index += before
    return cells.rename(columns={position: role for role, position in positions.items()})


def _records(path: Path, text: str, separator: str):
    """The records of a text, cut as pandas cuts them.

    Raises:
        UserError: a cell is longer than `csv` allows, since its quote is not closed.
    """
    reader, line = csv.reader(_lines(text), delimiter=separator, skipinitialspace=True), 1
    try:
        for record in reader:
            yield record
            line = reader.line_num + 1
    except csv.Error:
        raise UserError(
            f"{path}, line {line}: holds a cell of more than {csv.field_size_limit()} characters; "
            "close its quote or shorten it."
        ) from None


def _lines(text: str):
    """The lines of a text, one at a time to save memory."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    if start < len(text):
        yield text[start:]


def _place(quoted: str | None, separator: str, record: int) -> str:
    """The line, from 1, on which a record starts.

    `quoted` is the text if it has quotes, since quoted cells may hold line breaks. It is read a
    second time, for error messages alone.
    """
    if quoted is None:
        return f"line {record + 1}"
    reader = csv.reader(_lines(quoted), delimiter=separator, skipinitialspace=True)
    skipped = sum(1 for _ in itertools.islice(reader, record))
    return f"line {reader.line_num + 1 + record - skipped}"

"""Reads text files: text -> the table of the columns in use, every cell as text.

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
from fedem_jax.data.columns import MOST_COLUMNS, called, kind_of_line, locate
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.lines import STRAY, UNIT, prepared
from fedem_jax.errors import UserError

_CHUNK = 2**22
"""Characters that are counted at a time."""

_PADDING = 20
"""Most cells per character of text once records are padded to the widest; 1 if all are alike."""

_ENOUGH = 100_000
"""Characters of the second line that are looked at."""

_SMALL = 10_000_000
"""Cells, padding included, that are always allowed."""


def text_table(path: Path, text: str, suffix: str, form: FileFormat) -> Table:
    """Cut a text into the cells of the columns in use.

    Args:
        path: the file, for messages.
        text: its text; every line ends in a line feed.
        suffix: suffix of the file inside of any packing, in lower case.
        form: how the file is read.

    Raises:
        UserError: the text is not a table, or a column does not exist.
    """
    separator = form.separator.replace("\\t", "\t")
    if '"' in separator or not separator.replace("\t", " ").isprintable():
        raise UserError(f"separator: {separator!r} cannot separate columns; give another one.")
    text, separator, comment = prepared(path, text, suffix, separator)
    start = _first_line(text)
    if start < 0:
        raise UserError(f"{path}: is empty; give a file with at least one row.")
    written = _lines(text, start)
    first_line = next(written).rstrip("\n")
    before = text.count("\n", 0, start)  # a blank line counts as a record
    shown = separator
    if separator == " " or len(separator.encode()) > 1:
        if UNIT in text:
            line = text.count("\n", 0, text.index(UNIT)) + 1
            raise UserError(f"{path}, line {line}: holds a control character; delete it.")
        text, comment = (_with_marks(path, part, separator) for part in (text, comment))
        written = _lines(text, _first_line(text))
        first_line = next(written).rstrip("\n")
        separator = UNIT

    if first_line.count(separator) >= MOST_COLUMNS:
        raise _too_wide(path, f"line {before + 1}", shown)
    first = _first_cells(path, first_line, separator)
    if len(first) < 2:
        raise UserError(
            f"{path}, line {before + 1}: '{short(first_line)}' is a single column when cut at "
            f"{shown!r}; set separator to the one the file uses, or delete the line if it is a "
            "title."
        )
    second_line = next((line.rstrip("\n") for line in written if line.strip()), "")
    head = [line.replace(separator, shown) for line in (first_line, second_line) if line]
    widest = _check_widths(path, text, separator, shown)
    second = _first_cells(path, second_line[:_ENOUGH], separator) if second_line else []
    named = form.header == "yes"
    if form.header == "auto" and not comment:
        kind = kind_of_line(first, second, form.columns)
        if kind == "unclear":
            raise _unclear(path, before, head)
        named = kind == "names"
    names = _first_cells(path, comment, separator) if comment and not named else first
    # a title may be shorter than the rows
    cells = names + [f"column {at}" for at in range(len(names), len(second))] if named else names
    positions, by = locate(
        path, cells, form, named or bool(comment), " and ".join(map(_quoted, head))
    )
    # pandas finds no columns behind a quarter of a million blank lines
    body = text[_first_line(text) :]
    table = _parse(path, body, before, separator, positions, max(widest, len(cells)))
    if separator == UNIT and '"' in text:  # a quoted mark is no separator
        table = table.replace(UNIT, shown, regex=True)
    if named:
        table = table[table.index > before]
    table = table[(table != "").any(axis=1)]  # drop blank lines
    read = Table(
        path=path,
        cells=table,
        place=partial(_place, text if '"' in text else None, separator),
        columns=called(cells, positions, named or bool(comment), form),
        by=by,
        others=tuple(
            short(name)
            for at, name in enumerate(cells)
            if (named or comment) and at not in positions.values()
        ),
        sample=tuple(head[1:] if named else head),
        decimal=form.decimal,
    )
    if STRAY in text:
        _refuse_stray(read)
    return read


def _unclear(path: Path, before: int, head: list[str]) -> UserError:
    first, *second = map(_quoted, head)
    return UserError(
        f"{path}, line {before + 1}: {first} neither names user and item nor is a row like "
        f"{' '.join(second)} below it; set columns to the names or positions of user, item, rating "
        "and timestamp and header to yes, or delete the line."
    )


def _quoted(line: str) -> str:
    return f"'{short(line)}'"


def _refuse_stray(table: Table) -> None:
    """Refuse a quote that nothing closes in one of the columns in use."""
    for role in table.cells:
        stray = table.cells[role].str.contains(STRAY, regex=False).to_numpy()
        if stray.any():
            raise table.refuse(
                int(stray.argmax()),
                "opens a quote that nothing closes; mend it or set another separator.",
            )


def _first_line(text: str) -> int:
    """Where the first line that is not blank begins; -1 if there is none."""
    written = re.search(rf"[\S{UNIT}]", text)
    return -1 if written is None else text.rfind("\n", 0, written.start()) + 1


def _with_marks(path: Path, text: str, separator: str) -> str:
    """The text with `UNIT` in place of each separator.

    If the separator is a blank, each run of blanks and tabs outside of quotes is one separator.
    """
    if separator != " ":
        return text.replace(separator, UNIT)
    out = io.BytesIO()
    written = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(written, delimiter=UNIT, lineterminator="\n")
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


def _lines(text: str, start: int = 0):
    """The lines of a text, one at a time to save memory."""
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

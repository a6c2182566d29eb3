"""The lines of a text file before they are cut: comments, separator, and quotes that are none.

All three keep the number of lines, so that messages can name a line. A comment becomes a blank line
and a stray quote becomes `STRAY`.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from fedem_jax.data.aliases import by_name
from fedem_jax.data.moments import is_date
from fedem_jax.errors import UserError

UNIT = "\x1f"
"""Replaces separators of several bytes, because fast parsers take a single byte."""

STRAY = "\x1a"
"""Stands for a quote that neither opens nor closes a cell."""

_GUESSES = ("::", "\t", ",", ";", "|", " ")
"""Separators in the order of the search."""

_HEAD = 20
"""Lines that the guess of a separator looks at."""

_SEVERAL = 5
"""Lines from which on equally many blanks are no chance."""

_MARKED = re.compile(r"^[ \t]*[#%].*$", re.MULTILINE)


class Lines(NamedTuple):
    """A text without comments, and how it is cut."""

    text: str
    separator: str
    named: str
    """A comment ahead of the rows that names the columns; empty if there is none."""


def prepared(path: Path, text: str, suffix: str, separator: str) -> Lines:
    """Find the separator, blank the comments, and mark stray quotes.

    Comments are: a first line `sep=;`; a line that begins with # or % and a blank; a line that
    begins with # or % and has not as many cells as the rows. So `#1,5,3` may be a row whose user is
    called #1.

    Args:
        path: the file, for messages.
        text: its text.
        suffix: suffix of the file, in lower case.
        separator: the setting; empty = found.

    Raises:
        UserError: a quoted cell takes in whole rows.
    """
    told = re.match(r"\s*sep=(.+?)[ \r]*$", text.split("\n", 1)[0], re.IGNORECASE)
    if told:
        separator = separator or told[1]
        text = text[text.index("\n") :] if "\n" in text else ""
    rows = list(itertools.islice(_written(text), _HEAD))
    marked = (found[0].strip().lstrip("#%").strip() for found in _MARKED.finditer(text))
    separator = separator or guess_separator(suffix, rows, list(itertools.islice(marked, _HEAD)))
    text, named = _without_comments(text, separator, rows[0] if rows else "")
    calm = _with_stray_quotes(path, text, separator)
    if calm != text:  # a comment below a stray quote was taken for part of a cell
        calm, _ = _without_comments(calm, separator, rows[0])
    return Lines(calm, separator, named)


def _written(text: str):
    """The lines that are not blank and not marked as comments; the marked ones if all are."""
    marked, found = [], False
    for each in re.finditer(r"^.*\S.*$", text, re.MULTILINE):
        if each[0].lstrip()[0] not in "#%":
            found = True
            yield each[0]
        elif len(marked) < _HEAD:
            marked.append(each[0])
    yield from () if found else marked


def guess_separator(suffix: str, rows: list[str], comments: list[str]) -> str:
    """The separator that cuts a header, or a comment, which names user and item.

    Else the one that cuts all of these lines into equally many cells, else the first found. Of
    comma, semicolon, bar and blank it is the one that cuts most often. A decimal comma may
    stand in each line as well.
    """
    if suffix == ".tsv" or not rows:
        return "\t" if suffix == ".tsv" else ","
    present = [guess for guess in _GUESSES if guess in rows[0].strip()]
    if suffix == ".csv":
        present = [guess for guess in (",", ";", "\t", "|") if guess in present] or [","]
    for guess in present:
        for header in (rows[0], *comments):
            if {"user", "item"} <= by_name(_cells(header, guess))[0].keys():
                return guess
    counts = {guess: {width(row, guess) for row in rows} for guess in present}
    steady = [guess for guess in present if len(counts[guess]) == 1 and max(counts[guess]) > 1]
    best = next(iter([*steady, *present]), ",")
    if best in (",", ";", "|"):
        others = (",", ";", "|", " ") if len(rows) >= _SEVERAL else (",", ";", "|")
        rivals = [guess for guess in steady if guess in others]
        return max(rivals, key=lambda guess: max(counts[guess]), default=best)
    return best


def width(line: str, separator: str, *, quotes: bool = True) -> int:
    """Number of cells of a line."""
    return len(_cells(line, separator)) if quotes else line.count(separator) + 1


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line by itself; none if it has a quoted one that is too long."""
    if '"' not in line:
        return line.split(separator if separator != " " else None)
    try:
        return next(_records(line, separator), [])
    except csv.Error:
        return []


def _records(text: str, separator: str):
    """A reader of the records of a text, also with a separator of several bytes."""
    text = text.replace("\t", " ") if separator == " " else text.replace(separator, UNIT)
    delimiter = " " if separator == " " else UNIT
    return csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, skipinitialspace=True)


def _without_comments(text: str, separator: str, row: str) -> tuple[str, str]:
    """The text with blank lines in place of comments, and a comment ahead that names columns."""
    cells, named, parts, done, quotes = width(row, separator), "", [], 0, 0
    ahead = True
    for found in _MARKED.finditer(text):
        between, line = text[done : found.start()], found[0].strip()
        ahead = ahead and not between.strip()
        quotes += between.count('"')
        body = line.lstrip("#%").strip()
        names = by_name(body.split(separator if separator != " " else None))[0]
        is_names = ahead and "user" in names and "item" in names
        is_comment = line[1:2] in ("", " ", "\t", "#", "%") or width(line, separator) != cells
        if quotes % 2 == 0 and (is_names or is_comment):
            named = body if is_names and width(body, separator) == cells else named
            parts += [between]
        else:
            quotes += line.count('"')
            parts += [between, found[0]]
            ahead = False
        done = found.end()
    return ("".join([*parts, text[done:]]), named) if parts else (text, named)


def _with_stray_quotes(path: Path, text: str, separator: str) -> str:
    """The text with `STRAY` in place of quotes that do not belong to a quoted cell.

    A cell may hold line breaks, so its quotes may stand on several lines. But each line with an odd
    number of quotes may have, by itself, as many cells as the first line. Then it is a row of its
    own, and the odd quote is a sign in a text.

    Raises:
        UserError: a quoted cell takes in lines that are rows by themselves.
    """
    if '"' not in text:
        return text
    lines = text.split("\n")
    odd = [number for number, line in enumerate(lines) if line.count('"') % 2]
    if not odd:
        return text
    cells = width(next(line for line in lines if line.strip()), separator)
    if all(width(lines[number], separator, quotes=False) == cells for number in odd):
        for number in odd:
            lines[number] = _unquoted(lines[number], separator)
        return "\n".join(lines)
    even = (line for line in reversed(lines) if line.strip() and not line.count('"') % 2)
    model = next(even, "")
    for start, end in _several(text, separator):
        if any(_alike(line, model, separator) for line in lines[start + 1 : end]):
            raise UserError(
                f"{path}, line {start + 1}: opens a quote that takes in the rows up to line "
                f"{end}; close it or delete it."
            )
    return text


def _unquoted(line: str, separator: str) -> str:
    """The line with `STRAY` in place of the odd quotes at the beginning of a cell."""
    between = r"[ \t]+" if separator == " " else re.escape(separator)
    pieces = re.split(f"({between})", line)
    return "".join(
        piece.replace('"', STRAY) if piece.count('"') % 2 and piece.strip()[0] == '"' else piece
        for piece in pieces
    )


def _several(text: str, separator: str):
    """First line (from 0) and end of each record that spans more than one line."""
    reader, start = _records(text, separator), 0
    try:
        for _ in reader:
            if reader.line_num - start > 1:
                yield start, reader.line_num
            start = reader.line_num
    except csv.Error:  # a cell beyond the limit of the module, which the next check names
        return


def _alike(line: str, model: str, separator: str) -> bool:
    """Whether a line has as many cells as another, and values where that one has them."""
    pieces, others = (_cells(each, separator) for each in (line, model))
    pairs = [pair for pair in zip(pieces, others, strict=False) if is_value(pair[1])]
    alike = all(is_value(piece) for piece, _ in pairs)
    return len(pieces) == len(others) > 1 and bool(pairs) and alike


def is_number(cell: str) -> bool:
    """Whether a cell, quoted or not, is a number, also with a decimal comma."""
    try:
        float(cell.strip().strip('"').replace(",", ".", 1))
    except ValueError:
        return False
    return True


def is_value(cell: str) -> bool:
    """Whether a cell is a number, a date, or true or false."""
    return is_number(cell) or is_date(cell.strip()) or cell.strip().lower() in ("true", "false")

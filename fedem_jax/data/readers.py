"""Reads ratings files of any common shape into `Interactions`.

Any file gives either interactions or one sentence that says what to mend. Time and memory grow no
faster than the file. The limits are `LARGEST_FILE`, `columns.MOST_COLUMNS`, `parquet.MOST_ROWS` and
`cells.LONGEST_LABEL`. Labels are names: an item called 1000000000 takes one row of a table.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedem_jax.data.cells import labels, numbers
from fedem_jax.data.columns import ROLES
from fedem_jax.data.delimited import text_table
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.parquet import parquet_table
from fedem_jax.errors import UserError
from fedem_jax.units import in_bytes

LARGEST_FILE = 4 * 2**30
"""Most bytes that a file may have, about 160 million ratings."""


def read(
    path: str | Path,
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """Read a CSV, TSV, parquet or otherwise separated file.

    Text is UTF-8, with or without byte order mark. Lines end in LF, CRLF or CR. Cells may stand in
    double quotes, and blanks around them are dropped. Blank lines are skipped; comment lines are
    not. Other columns are ignored, also if a single line has more of them. Labels are not changed
    (`fedem_jax.data.cells.labels`). Ratings and timestamps are finite numbers, and timestamps keep
    every digit (`fedem_jax.data.cells.numbers`).

    Args:
        path: the suffix .parquet or .pq marks a parquet file; any other file is text.
        columns: names or positions (from 0) of user, item, rating and timestamp. The last two may
            be left out; an empty name leaves out the rating alone. If `columns` is empty, columns
            of these names are taken, else the first ones in this order.
        separator: empty = comma for .csv, tab for .tsv, else the one found in the first line. A
            blank stands for any run of blanks.
        header: `yes`, `no` or `auto`. With `auto` the first line names the columns if its rating or
            timestamp is not a number. In a file without both, it does if it names user and item.

    Raises:
        UserError: the file cannot be read, exceeds a limit, or holds a row that is no interaction.
            The sentence names file, line (from 1) and value, and the remedy.
    """
    path = Path(path)
    return parse(path, _content(path), columns, separator, header)


def parse(
    path: Path,
    content: bytes,
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """As `read`, for content that is already in memory.

    Args:
        path: the suffix tells the kind of file; the path itself stands in messages.
        content: bytes of the file.
        columns, separator, header: as in `read`.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        table = parquet_table(path, content, columns)
    else:
        table = text_table(path, content, columns, separator, header)
    if table.cells.empty:
        raise UserError(f"{path}: holds no interactions; give a file with at least one row.")
    user, item = (labels(table, role) for role in ROLES[:2])
    rating, time = (numbers(table, role) for role in ROLES[2:])
    return Interactions.of(user, item, rating, time)


def _content(path: Path) -> bytes:
    """The bytes of a regular file. A device or a pipe is refused, since it may never end."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder; give the ratings file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no regular file; copy its content into one.")
        if status.st_size > LARGEST_FILE:
            raise UserError(
                f"{path}: has {in_bytes(status.st_size)}, more than {in_bytes(LARGEST_FILE)}; "
                "leave out users or columns."
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except ValueError:  # a path that holds a NUL character
        raise UserError(f"{str(path)!r}: is no path; check it.") from None

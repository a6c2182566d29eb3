"""Ratings files of any common shape -> `Interactions`, or one sentence that says what to mend.

Whatever the bytes are, the outcome is one of these two, in time and memory that grow no faster than
the file. The limits: `LARGEST_FILE`, `columns.MOST_COLUMNS`, `parquet.MOST_ROWS`,
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
"""Bytes that a file may have, some 160 million ratings."""


def read(
    path: str | Path,
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """Read a CSV, TSV, parquet or otherwise separated file.

    Text is UTF-8, with or without byte order mark; its lines end in LF, CRLF or CR. Cells may stand
    in double quotes, and blanks around them are dropped. Blank lines are skipped, comments are not;
    columns beyond the wanted ones are ignored, also where a single line has more. Labels stay what
    they are (`fedem_jax.data.cells.labels`); ratings and timestamps are finite numbers, and
    timestamps keep every digit (`numbers`).

    columns: names or positions (from 0) of user, item, rating, timestamp. The last two may be left
        out, a rating alone also by an empty name. Empty: the columns of these names, else the
        first ones in this order.
    separator: empty: comma for .csv, tab for .tsv, else the one found in the first line. A blank
        stands for any run of blanks.
    header: `yes`, `no`, or `auto`: the first line names the columns if its rating or timestamp is
        no number (in a file without both: if it holds the names user and item).

    Raises:
        UserError: the file cannot be read, is beyond a limit, or holds something that is no
            interaction; the sentence names file, line (from 1, as in an editor) and value, and what
            to do.
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
    """As `read`, of the content of a file; `path` tells its kind by the suffix, and its name."""
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
    """What a regular file holds; a device or a pipe could go on for ever."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder; give the ratings file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no regular file; write what it yields to one.")
        if status.st_size > LARGEST_FILE:
            raise UserError(
                f"{path}: has {in_bytes(status.st_size)}, more than {in_bytes(LARGEST_FILE)}; "
                "leave out users or columns."
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except ValueError:  # as the system says of a path with a NUL
        raise UserError(f"{str(path)!r}: is no path; check it.") from None

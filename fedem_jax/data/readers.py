"""Reads ratings files of any common shape into `Interactions`.

Any file gives either interactions or one sentence that says what to mend. Time and memory grow no
faster than the file. The limits are `contents.LARGEST_FILE`, `columns.MOST_COLUMNS`,
`columnar.MOST_ROWS` and `cells.LONGEST_LABEL`. Labels are names: an item called 1000000000 takes
one row of a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedem_jax.data import plausible
from fedem_jax.data.cells import Table, labels, numbers
from fedem_jax.data.columnar import columnar_table, kind_of
from fedem_jax.data.columns import COHORT, ROLES
from fedem_jax.data.columns_read import ColumnsRead
from fedem_jax.data.contents import content, unpacked
from fedem_jax.data.delimited import text_table
from fedem_jax.data.encodings import decode
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError

FOUND = FileFormat()
"""All is found in the file."""


def read(path: str | Path, *, seed: int = 0, **form: Any) -> Interactions:
    """Read a ratings file: text (CSV, TSV, dat), JSON lines, parquet or feather.

    Text and JSON lines may be packed by gzip, bzip2, xz, or zip with a single file. Lines end in
    LF, CRLF or CR. Cells may stand in double quotes, and blanks around them are dropped. Blank
    lines and comments are skipped (`fedem_jax.data.lines`). Other columns are ignored, also if a
    single line has more of them. Labels are not changed (`fedem_jax.data.cells.labels`). Ratings
    are finite numbers, or true and false; timestamps are numbers that keep every digit, or dates
    (`fedem_jax.data.cells.numbers`).

    Columns are found by the names in `fedem_jax.data.aliases`. Without names they are user, item,
    rating and timestamp, in this order, if the values can be that (`fedem_jax.data.plausible`).

    Args:
        path: the file. Its content says of what kind it is, else its suffix.
        seed: seed of the order `random`.
        form: the fields of `fedem_jax.data.fileformat.FileFormat`.

    Raises:
        UserError: the file cannot be read, exceeds a limit, holds a row that is no interaction, or
            does not say which column is what, or which rows are the latest. The sentence names
            file, line (from 1) and value, and the remedy.
    """
    path = Path(path)
    return parse(path, content(path), FileFormat(**form), seed)


def parse(path: Path, packed: bytes, form: FileFormat = FOUND, seed: int = 0) -> Interactions:
    """As `read`, for content that is already in memory.

    Args:
        path: the suffix may tell the kind of file; the path itself stands in messages.
        packed: bytes of the file.
        form: how the file is read.
        seed: seed of the order `random`.
    """
    form.check()
    suffix, found = unpacked(path, packed)
    kind, note = kind_of(suffix, found), ""
    if kind:
        table = columnar_table(path, kind, found, form)
    else:
        text, note = decode(path, found, form.encoding)
        table = text_table(path, text, suffix, form)
    return interactions_of(table, form, seed, note)


def interactions_of(table: Table, form: FileFormat, seed: int, note: str = "") -> Interactions:
    """Check all cells of a table.

    Args:
        table: the columns in use.
        form: how the file is read.
        seed: seed of the order `random`.
        note: what is known of the file beside its columns.
    """
    if table.cells.empty:
        raise UserError(f"{table.path}: holds no interactions; give a file with at least one row.")
    user, item = (labels(table, role) for role in ROLES[:2])
    rating = numbers(table, "rating")
    time = None if form.order else numbers(table, "timestamp")
    plausible.check(table, user, item, rating, time)
    plausible.check_time(table, time, form.order)
    columns_read = ColumnsRead(
        user=table.columns["user"],
        item=table.columns["item"],
        rating=table.columns.get("rating", "1 in every row"),
        time=f"order {form.order}" if form.order else table.columns["timestamp"],
        by=table.by,
        cohort=table.columns.get(COHORT, ""),
        notes=tuple(filter(None, [note, *table.notes])),
    )
    return Interactions.of(
        user,
        item,
        rating,
        time,
        order=form.order,
        seed=seed,
        columns_read=columns_read,
        cohort=labels(table, COHORT) if COHORT in table.columns else None,
        ties_latest=form.ties_latest,
    )

"""Reads files whose columns have names and types: parquet, feather, JSON lines; and tables in
memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq

from fedem_jax.data.cells import EXACT, Table, short
from fedem_jax.data.columns import called, locate
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.errors import UserError

MOST_ROWS = 100_000_000
"""Most rows that are read; a few bytes of a parquet file can hold any number of rows."""

_BLOCK = 2**26
"""Bytes of JSON that are read at a time; a row has to fit."""


def kind_of(suffix: str, content: bytes) -> str:
    """parquet, feather or json, by the content or else by the suffix; empty for other text."""
    if content.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return "parquet"
    if content.startswith((b"ARROW1", b"FEA1")) or suffix in (".feather", ".arrow", ".ipc"):
        return "feather"
    head = content[:100].lstrip(b"\xef\xbb\xbf \t\r\n")
    if suffix in (".jsonl", ".ndjson", ".json") or head.startswith((b'{"', b'[{"')):
        return "json"
    return ""


def columnar_table(path: Path, kind: str, content: bytes, form: FileFormat) -> Table:
    """Read the columns in use of a parquet or feather file or of JSON lines.

    Raises:
        UserError: the file is damaged, has more than `MOST_ROWS` rows, or a column does not exist.
    """
    try:
        opened = {"parquet": _parquet, "feather": _feather, "json": _json}[kind]
        names, rows, read = opened(path, content)
        return _in_use(path, names, rows, read, form)
    except (
        pa.ArrowException,
        OSError,
        OverflowError,
        ValueError,
        KeyError,
        MemoryError,
        RecursionError,
    ) as error:
        reason = short(str(error).split("\n")[0])
        kind = "JSON" if kind == "json" else kind
        raise UserError(f"{path}: is no readable {kind} file ({reason}).") from None


def arrow_table(name: str, table: pa.Table, form: FileFormat) -> Table:
    """The columns in use of a table in memory.

    Raises:
        UserError: there are too many rows, or a column does not exist.
    """
    try:
        return _in_use(Path(name), table.schema.names, table.num_rows, table.select, form)
    except (pa.ArrowException, ValueError) as error:
        reason = short(str(error).split("\n")[0])
        raise UserError(f"{name}: is no readable table ({reason}).") from None


def _in_use(
    path: Path,
    names: list[str],
    rows: int,
    read: Callable[[list[str]], pa.Table],
    form: FileFormat,
) -> Table:
    if len(names) < 2:
        raise UserError(f"{path}: has fewer than two columns; give a file with user and item.")
    if rows > MOST_ROWS:
        raise UserError(
            f"{path}: holds {rows} rows, more than {MOST_ROWS}; leave out users or columns."
        )
    positions, by = locate(path, names, form, named=True)
    wanted = [names[position] for position in positions.values()]
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{path}: has several columns '{short(name)}'; rename them.")
    table = read(wanted)
    columns = [
        _plain(path, role, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
        for role, column in zip(positions, table.columns, strict=True)
    ]
    cells = pa.table(columns, names=list(positions)).to_pandas(ignore_metadata=True)
    head = [
        ", ".join(short(str(cell)) for cell in row.values())
        for row in table.slice(0, 2).to_pylist()
    ]
    return Table(
        path=path,
        cells=cells,
        place=lambda record: f"row {record + 1}",
        columns=called(names, positions, True, form),
        by=by,
        others=tuple(short(n) for at, n in enumerate(names) if at not in positions.values()),
        sample=tuple(head),
        decimal=form.decimal,
    )


def _plain(path: Path, role: str, column: pa.Array) -> pa.Array:
    """The column as integers, floats or texts.

    As a time, a timestamp becomes a count of its unit and a date one of microseconds. As a rating,
    true and false become 1 and 0. All else becomes text.

    Raises:
        UserError: a label is a date, or a number that may have lost digits.
    """
    kind = column.type
    if role == "timestamp" and pa.types.is_timestamp(kind):
        return column.cast(pa.int64())
    if role == "timestamp" and pa.types.is_date(kind):
        return column.cast(pa.timestamp("us")).cast(pa.int64())
    if role == "rating" and pa.types.is_boolean(kind):
        return column.cast(pa.int64())
    if role in ("user", "item") and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise UserError(f"{path}: its column of the {role} holds dates; set columns.")
    if role in ("user", "item") and pa.types.is_floating(kind) and _rounded(column):
        raise UserError(
            f"{path}: a label of the {role} has too many digits for a number; write it as text."
        )
    stays = pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_text(kind)
    if pa.types.is_dictionary(kind) and not stays:  # pyarrow casts none of views, as Polars has
        texts = column.dictionary.cast(pa.string())
        return pa.DictionaryArray.from_arrays(column.indices, texts)
    return column if stays else column.cast(pa.string())


def _rounded(column: pa.Array) -> bool:
    """Whether a number is so large that two whole numbers may have become one."""
    largest = pc.max(pc.abs(column)).as_py()
    return largest is not None and largest >= EXACT


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


Opened = tuple[list[str], int, Callable[[list[str]], pa.Table]]
"""Names of the columns, number of rows, and what reads some of the columns."""


def _parquet(path: Path, content: bytes) -> Opened:
    """Texts are stored as references to the distinct ones. So a long text that a small file repeats
    a million times takes the memory of one."""
    file = pq.ParquetFile(pa.BufferReader(content))
    schema = file.schema_arrow

    def read(names: list[str]) -> pa.Table:
        texts = [name for name in names if _is_text(schema.field(name).type)]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        return file.read(columns=names).select(names)

    return schema.names, file.metadata.num_rows, read


def _feather(path: Path, content: bytes) -> Opened:
    table = pyarrow.feather.read_table(pa.BufferReader(content))
    return table.schema.names, table.num_rows, table.select


def _json(path: Path, content: bytes) -> Opened:
    """JSON lines, or a list of objects.

    Raises:
        UserError: there is no row, or a label was taken for a date.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise UserError(f"{path}: is empty; give a file with at least one row.")
    if content.lstrip().startswith(b"["):
        rows = json.loads(content)
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of objects")
        table = pa.Table.from_pylist(rows)
    else:
        longest = max(map(len, content.split(b"\n"))) if len(content) > _BLOCK else len(content)
        options = pyarrow.json.ReadOptions(block_size=max(_BLOCK, longest + 1))
        table = pyarrow.json.read_json(pa.BufferReader(content), read_options=options)
    return table.schema.names, table.num_rows, table.select

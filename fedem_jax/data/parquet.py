"""Reads parquet files: bytes -> the table of the columns in use."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedem_jax.data.cells import Table, short
from fedem_jax.data.columns import locate
from fedem_jax.errors import UserError

MOST_ROWS = 100_000_000
"""Most rows that are read; a few bytes of a parquet file can hold any number of rows."""


def parquet_table(path: Path, content: bytes, columns: tuple[str, ...]) -> Table:
    """Read the columns in use of a parquet file.

    Texts are stored as references to the distinct ones. So a long text that a small file repeats a
    million times takes the memory of one.

    Raises:
        UserError: the file is damaged, has more than `MOST_ROWS` rows, or a column does not exist.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        first, rows = file.schema_arrow.names, file.metadata.num_rows
        if len(first) < 2:
            raise UserError(f"{path}: has fewer than two columns; give a file with user and item.")
        if rows > MOST_ROWS:
            raise UserError(
                f"{path}: holds {rows} rows, more than {MOST_ROWS}; leave out users or columns."
            )
        positions = locate(path, first, columns, named=True)
        names = [first[position] for position in positions.values()]
        for name in names:
            if first.count(name) > 1:
                raise UserError(f"{path}: has several columns '{short(name)}'; rename them.")
        texts = [name for name in names if _is_text(file.schema_arrow.field(name).type)]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        table = file.read(columns=names)
        kinds = [_plain(column.type) for column in table.columns]
        schema = pa.schema(list(zip(positions, kinds, strict=True)))
        cells = table.rename_columns(list(positions)).cast(schema).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        reason = short(str(error).split("\n")[0])
        raise UserError(f"{path}: is no readable parquet file ({reason}).") from None
    return Table(path, cells, lambda record: f"row {record + 1}")


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that a parquet column is read as.

    A timestamp becomes a count of its unit. Integers, floats and texts stay; all else becomes text.
    """
    if pa.types.is_timestamp(kind):
        return pa.int64()
    stays = pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_text(kind)
    return kind if stays else pa.string()


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)

"""Writes lists of recommended items: CSV, parquet, or the run file of TREC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fedem_jax.errors import UserError
from fedem_jax.storage.files import disk_errors, put

SUFFIXES = (".csv", ".parquet", ".trec")


def check_suffix(path: str | Path) -> None:
    """Refuse a file that `write_lists` has no format for.

    Raises:
        UserError: its ending is unknown.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"out: {path} ends in none of {', '.join(SUFFIXES)}; give one that does.")


def write_lists(table: pd.DataFrame, path: str | Path, tag: str) -> None:
    """Write a table of `user`, `rank`, `item` and `score`, in the format of the file's ending.

    A line of a TREC run file is `qid Q0 docid rank score tag`, with users as queries and items as
    documents. Scores have nine digits, with which float32 is read back exactly. Programs of TREC
    order by score alone, and break ties by docid.

    Args:
        table: as from `Result.recommend`.
        path: the file, .csv, .parquet or .trec.
        tag: name of the run in a TREC file.

    Raises:
        UserError: the ending is unknown, the file cannot be written, or a label holds white space,
            which a TREC file cannot.
    """
    check_suffix(path)
    path = Path(path)
    with disk_errors(path, "give another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            put(path, lambda to: table.to_parquet(to, index=False))
        elif path.suffix == ".csv":
            put(path, lambda to: table.to_csv(to, index=False))
        else:
            text = trec(table, tag)
            put(path, lambda to: to.write_text(text))


def trec(table: pd.DataFrame, tag: str) -> str:
    """The lines of a TREC run file; arguments and errors as for `write_lists`."""
    for name in ("user", "item"):
        for label in table[name].unique():
            if len(str(label).split()) != 1:
                raise UserError(
                    f"out: {name} {str(label)!r} holds white space, which separates the columns of "
                    "a TREC file; give a .csv file."
                )
    tag = "-".join(tag.split())
    columns = (table[name].tolist() for name in ("user", "item", "rank"))
    scores = np.char.mod("%.9g", table["score"].to_numpy(np.float64))
    return "".join(
        f"{user} Q0 {item} {rank} {score} {tag}\n"
        for user, item, rank, score in zip(*columns, scores, strict=True)
    )

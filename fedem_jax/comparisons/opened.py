"""A finished comparison, read back from its folder."""

from __future__ import annotations

import csv
from pathlib import Path

from fedem_jax.comparisons.plan import Comparison, MethodSpec
from fedem_jax.comparisons.results import MethodRuns, gather
from fedem_jax.comparisons.tables import NUMBERS
from fedem_jax.config.base import Config
from fedem_jax.config.file import load_settings
from fedem_jax.errors import UserError
from fedem_jax.runs.names import CONFIG
from fedem_jax.storage.files import read


def open_comparison(directory: Path) -> list[MethodRuns]:
    """The runs of all methods that the table of a comparison lists.

    Args:
        directory: of the comparison.

    Raises:
        UserError: a file is missing or broken.
    """
    rows = list(csv.DictReader(read(directory / NUMBERS).splitlines()))
    if not rows or not {"method", "failed", "seeds"} <= set(rows[0]):
        raise UserError(f"{directory / NUMBERS}: is no table of a comparison; compare again.")
    seeds = max(int(row["seeds"] or 0) for row in rows)
    folders = Comparison(directory, (), seeds)
    specs = []
    for row in rows:
        name, failed = row["method"], row["failed"]
        config = None
        if not failed:
            config = load_settings(folders.run(name, Config(), 0).path / CONFIG)
        specs.append(MethodSpec(name, config, failed))
    return gather(Comparison(directory, tuple(specs), seeds), {})

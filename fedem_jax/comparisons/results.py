"""The results of a comparison, read back from its run directories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedem_jax.comparisons.plan import Comparison
from fedem_jax.config.base import Config
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Record, Summary
from fedem_jax.runs.reading import read_per_client, read_run

if TYPE_CHECKING:
    import pandas as pd


class MethodRuns(NamedTuple):
    """The finished runs of a method."""

    name: str
    config: Config | None
    failed: str
    """Why it has no result; empty if it has one."""
    summaries: Sequence[Summary] = ()
    """One for each seed."""
    clients: Sequence[pd.DataFrame] = ()
    """Metrics of every client at the best validation round; a table for each seed."""
    records: Sequence[list[Record]] = ()
    """All evaluated rounds; a list for each seed."""


def gather(comparison: Comparison, failed: dict[str, str]) -> list[MethodRuns]:
    """Read all finished runs back.

    Args:
        failed: why methods failed, by name.

    Raises:
        UserError: a file is missing or broken, or the runs were made with different data.
    """
    methods: list[MethodRuns] = []
    splits: dict[int, str] = {}  # fingerprints by seed
    users: list[str] = []
    for name, config, refused, _ in comparison.contenders:
        if config is None or name in failed:
            methods.append(MethodRuns(name, config, refused or failed[name]))
            continue
        summaries, tables, records = [], [], []
        for seed in range(comparison.seeds):
            path = comparison.run(name, config, seed).path
            (_, rounds, summary), clients = read_run(path), read_per_client(path)
            split = splits.setdefault(seed, summary["fingerprint"])
            users = users or clients["user"].tolist()
            if summary["fingerprint"] != split or clients["user"].tolist() != users:
                raise UserError(
                    f"{path}: rests on other data than the runs before it, so the data have "
                    "changed in between; remove the older runs."
                )
            summaries.append(summary)
            tables.append(clients)
            records.append(rounds)
        methods.append(MethodRuns(name, config, "", summaries, tables, records))
    return methods

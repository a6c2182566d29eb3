"""The run directory as the other ones of several processes see it: they read it and write nothing
but their part of the checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fedem_jax.core.processes import is_first, meet
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.names import CONFIG
from fedem_jax.runs.reading import Run

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 10.0
"""Seconds after which a file that another host has written should be seen."""


class FollowedDirectory(RunDirectory):
    """The run directory in a process that is not the first."""

    def __enter__(self) -> FollowedDirectory:
        """Lock nothing: the first process does."""
        return self

    def __exit__(self, *_) -> None:
        """Nothing: there is no lock."""

    def on_start(self, setting: Setting) -> None:
        """Take the settings; the first process writes them."""
        self._config = setting["config"]

    def rewind(self, number: int, with_rho: bool = False) -> list[Record]:
        """The records up to round `number`; the first process removes the others."""
        return self.recorded(number, with_rho)

    def on_round(self, record: Record) -> None:
        """Nothing, as for the next two."""

    def flush(self) -> None: ...

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None: ...


def run_directory(
    path: str | Path,
    resume: bool = False,
    say: Callable[[str], None] = warnings.warn,
    draw: Callable[[Path, Run], None] = lambda path, run: None,
) -> RunDirectory:
    """The run directory as this process sees it; arguments as for `RunDirectory`."""
    kind = RunDirectory if is_first() else FollowedDirectory
    return kind(path, resume, say, draw)


def in_sight(path: Path) -> None:
    """Refuse a run directory that only the first process can see. It has written it already.

    Raises:
        UserError: this process does not see it.
    """
    meet()
    end = time.monotonic() + PATIENCE
    while not (path / CONFIG).exists():
        if time.monotonic() > end:
            raise UserError(
                f"{path}: this process does not see what the first one writes there; give an --out "
                "on a disk that all of them share."
            )
        time.sleep(0.1)

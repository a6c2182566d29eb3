"""Refuses folders that a run may not use, before anything is written."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
from pathlib import Path

from fedem_jax.config.base import FILES, INERT, Config
from fedem_jax.config.file import load_settings
from fedem_jax.config.words import differences
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.runs.names import CONFIG, METRICS, SUMMARY
from fedem_jax.storage.lock import holder

RESUMED_WITH = ("dataset", *FILES, *(name for name in INERT if name != "size_classes"))
"""Settings that may change when a run is resumed. Of the data only their place may: their
fingerprint is compared."""


def check_settings(path: Path, config: Config) -> None:
    """Refuse to resume a run under other settings.

    Raises:
        CannotResume: the settings in the folder differ; the message names the differences.
    """
    saved = dataclasses.asdict(load_settings(path / CONFIG))
    if changed := differences(saved, dataclasses.asdict(config), RESUMED_WITH):
        raise CannotResume(
            f"{path}: holds a run with other settings ({'; '.join(changed)}); a run goes on with "
            "its own alone."
        )


def check_free(path: str | Path) -> None:
    """Refuse a run directory that is taken or cannot be made.

    Raises:
        UserError: it is in use, holds another run, is a file, or cannot be written.
    """
    path = Path(path)
    if busy := holder(path):
        raise UserError(f"{path}: {busy} is at work there; give another --out.")
    check_untaken(path)
    nearest = next((each for each in (path, *path.parents) if each.exists()), Path())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file; give another --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: nothing can be written there; give another --out.")


def check_untaken(path: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        UserError: it holds one. If the run can be resumed, the message gives the command.
    """
    if _taken(path):
        resumable = (path / CONFIG).exists() and not (path / SUMMARY).exists()
        folder, free = shlex.quote(str(path)), shlex.quote(str(first_free(path)))
        hint = f" that can be resumed, `fedem train --resume {folder}`" if resumable else ""
        raise UserError(
            f"{path}: already holds a run{hint}; give another --out, such as `--out {free}`, or "
            f"remove the folder, `rm -r {folder}`."
        )


def first_free(path: str | Path) -> Path:
    """`path`, or the first of `<path>-2`, `<path>-3`, ..., without a run and without a process."""
    path = Path(path)
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    folders = itertools.chain([path], numbered)
    return next(each for each in folders if not (_taken(each) or holder(each)))


def _taken(path: Path) -> bool:
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY))

"""Checkpoints on disk: written beside each other, whole or not at all, and checked when read.

checkpoint/round-000012/arrays/        every array by name, written by orbax
                       about.json      round, settings, fingerprint, versions, times
                       manifest.json   size and SHA-256 of every file above

All is written into a folder of another name, which becomes `round-000012` at the end. So a folder
of that name is whole; what the disk did to it afterwards, the manifest tells. No file is executed
when read: they are numbers and JSON.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.errors import CannotResume, UserError, in_short
from fedem_jax.storage.files import resume_hint

FOLDER = "checkpoint"
"""In a run directory."""
FORMAT = 1
"""Of these files; to be raised whenever older ones can no longer be read."""
ARRAYS, ABOUT, MANIFEST = "arrays", "about.json", "manifest.json"
UNFINISHED = "unfinished"
NAME = re.compile(r"round-(\d{6,})")


class Saved(NamedTuple):
    """One checkpoint."""

    about: dict[str, Any]
    """At least `round`, from 1, and `validation`, which the best checkpoint is chosen by."""
    arrays: dict[str, Any]
    """NumPy arrays by name, or dictionaries of such."""


class Checkpoints:
    """The checkpoints of a run: the latest, and the best on validation or, where that is the
    latest, the one before.

    One write is under way at most, in a thread of its own; its failure is told by the next call.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, saved: Saved) -> None:
        """Start to write a checkpoint, once the one before is written.

        Raises:
            UserError: that one could not be written; says why.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, saved)

    def wait(self) -> None:
        """Until what was to be saved is on disk.

        Raises:
            UserError: it could not be written; says why.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({in_short(error)}); "
                f"{resume_hint(self.folder.parent)}."
            ) from None

    def close(self) -> None:
        """End the thread, once it has written what it was given; whether that succeeded is not
        asked."""
        self._writer.shutdown()

    def latest(self, say: Callable[[str], None]) -> Saved | None:
        """The newest checkpoint that is sound; None if none was ever written.

        Args:
            say: told of those that are damaged, and passed over.

        Raises:
            CannotResume: there are checkpoints, but all are damaged, or of another format.
        """
        for folder in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        folders = found(self.folder)
        damaged = []
        for number in sorted(folders, reverse=True):
            try:
                saved = read(folders[number])
            except Damaged as error:
                say(f"{folders[number]}: is damaged ({error}); the one before it is taken.")
                damaged.append(number)
            else:
                for number in damaged:
                    self._remove(folders[number])
                return saved
        if folders:
            raise CannotResume(
                f"{self.folder}: every checkpoint is damaged; remove that folder, and the same "
                "command starts the run over."
            )
        return None

    def _write(self, saved: Saved) -> None:
        target = self.folder / f"round-{saved.about['round']:06}"
        unfinished = self.folder / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished, saved)
        unfinished.rename(target)
        synced(self.folder)
        self._remove_old()

    def _remove_old(self) -> None:
        """Only what is superseded goes, and only after its successor is there."""
        folders = found(self.folder)
        quality = {number: validation_of(folder) for number, folder in folders.items()}
        latest = max(folders)
        best = max(folders, key=lambda number: (quality[number], number))
        if best == latest:
            best = max((number for number in folders if number < latest), default=latest)
        for number in folders.keys() - {latest, best}:
            self._remove(folders[number])

    def _remove(self, folder: Path) -> None:
        """Out of sight first: what is half removed must not look like a checkpoint."""
        gone = self.folder / f"{UNFINISHED}-{folder.name}"
        folder.rename(gone)
        shutil.rmtree(gone)


class Damaged(Exception):
    """A checkpoint is not as it was written."""


def found(folder: Path) -> dict[int, Path]:
    """Checkpoints by round, damaged ones included."""
    if not folder.is_dir():
        return {}
    names = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in names if match}


def validation_of(folder: Path) -> float:
    """The quality of a checkpoint; -1 if it cannot be told."""
    try:
        return float(json.loads((folder / ABOUT).read_text())["validation"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1.0


def write(folder: Path, saved: Saved) -> None:
    """Write a checkpoint into an empty folder, the manifest last."""
    _saved((folder / ARRAYS).absolute(), saved.arrays)
    put(folder / ABOUT, json.dumps(saved.about, indent=1))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): [path.stat().st_size, sha256(path)] for path in files}
    put(folder / MANIFEST, json.dumps({"format": FORMAT, "files": sums}, indent=1))
    synced(folder)


def read(folder: Path) -> Saved:
    """Read a checkpoint, once every file is found to be as it was written.

    Raises:
        Damaged: one is not; says which.
        CannotResume: an older or newer version wrote it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        number, files = manifest["format"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{MANIFEST}: {in_short(error)}") from None
    if number != FORMAT:
        raise CannotResume(
            f"{folder}: is of format {number}, this version reads {FORMAT}; run again."
        )
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{name} has {path.stat().st_size} bytes of {size}")
        if sha256(path) != checksum:
            raise Damaged(f"{name} has another checksum")
    arrays = _restored((folder / ARRAYS).absolute())
    return Saved(json.loads((folder / ABOUT).read_text()), arrays)


def _saved(path: Path, arrays: dict[str, Any]) -> None:
    """Have orbax write arrays.

    Orbax tells of a failure in tracebacks, and once more when its coroutines are let go; here that
    becomes the one error. Its threads may come to the closed loop even later, and are not heard.
    """
    import orbax.checkpoint as ocp

    failure = ""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                checkpointer.save(path, arrays)
        except Exception as error:
            failure = in_short(error)
        if failure:
            gc.collect()
    finally:
        sys.unraisablehook = partial(_but_for_late_threads, hook) if failure else hook
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
    if failure:
        raise OSError(failure)


def _but_for_late_threads(hook: Callable[[Any], Any], unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _restored(path: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path)


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(path: Path, text: str) -> None:
    """Write a file such that it is on disk when this returns."""
    with path.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def synced(folder: Path) -> None:
    """See to it that the names in a folder are on disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)

"""Checkpoints on disk. Each is a folder that is whole or absent, and is checked when read.

checkpoint/round-000012/arrays-00000-of-00001.npz   every array by name; one file for each process
                        about.json                  round, settings, fingerprint, versions, times
                        manifest.json               size and SHA-256 of every file above

A checkpoint is written to a folder of another name, which is renamed `round-000012` at the end. So
a folder of that name is whole. The manifest reveals later damage by the disk. Reading executes
nothing: the files hold numbers and JSON.

Several processes write their files into the same folder. The first process waits for the files of
all, writes the manifest and renames the folder. An array that is in several files is divided by its
first axis, in order of the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

import numpy as np

from fedem_jax.errors import CannotResume, UserError, in_short
from fedem_jax.storage.files import resume_hint

Arrays = dict[str, Any]
"""Arrays by name, and dictionaries of arrays by name. A name has no slash. What is read from a
checkpoint is an array on disk or `Joined`: its rows are read when they are asked for."""

FORMAT = 2
"""Version of this format. It is raised whenever older files can no longer be read."""
ARRAYS, ABOUT, MANIFEST = "arrays-{:05}-of-{:05}.npz", "about.json", "manifest.json"
SUMS = "sums-{}.json"
"""Name of the file by which a process says that its arrays are written, while others write."""
LOCAL_HEADER = 30
"""Bytes of the header of a file in a zip archive, before its name."""
POLL_SECONDS = 0.05
UNFINISHED = "unfinished"
"""Name of the folder of a checkpoint while it is written or removed."""
NAME = re.compile(r"round-(\d{6,})")


class Saved(NamedTuple):
    """One checkpoint."""

    about: dict[str, Any]
    """Values for about.json. `round` (from 1) and `validation` are required: the checkpoint of the
    largest `validation` is the best one."""
    arrays: Arrays
    """The state of the run."""


class Checkpoints:
    """The checkpoints of a run: the latest, and the best on validation.

    While the run goes, the one before is kept as well if the best is the latest. A thread writes
    one checkpoint at a time. If it fails, the next call raises the error.
    """

    def __init__(self, folder: Path, process: int = 0, processes: int = 1):
        """
        Args:
            folder: of all checkpoints of the run.
            process: number of this process, from 0; the first one alone removes checkpoints.
            processes: how many write each checkpoint together.
        """
        self.folder, self._process, self._processes = folder, process, processes
        self._closing = Event()
        if process == 0:
            for left in folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, *several: Saved) -> None:
        """Start to write checkpoints in this order, after those before are written.

        Raises:
            UserError: one of those before could not be written.
        """
        self.wait()
        self._pending = self._writer.submit(self._write_all, several)

    def wait(self) -> None:
        """Wait until every checkpoint is on disk.

        Raises:
            UserError: one could not be written. The sentence says why.
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
                f"{resume_hint(self.folder.parent, error)}."
            ) from None

    def close(self) -> None:
        """End the thread after its last write. An error in it is not raised, and it waits for no
        other process any more."""
        self._closing.set()
        self._writer.shutdown()

    def latest(self, say: Callable[[str], None]) -> Saved | None:
        """The latest checkpoint that is not damaged; None if there are no checkpoints.

        Args:
            say: called with a sentence for each damaged checkpoint that is skipped.

        Raises:
            CannotResume: all checkpoints are damaged, or the latest has another format.
        """
        folders = found(self.folder)
        damaged = []
        for number in sorted(folders, reverse=True):
            try:
                saved = read(folders[number])
            except Damaged as error:
                say(f"{folders[number]}: is damaged ({error}); the one before it is used.")
                damaged.append(number)
            else:
                if self._process == 0:
                    for number in damaged:
                        self._remove(folders[number])
                return saved
        if folders:
            raise CannotResume(
                f"{self.folder}: every checkpoint is damaged; remove that folder, and the same "
                "command starts the run over."
            )
        return None

    def keep(self, rounds: Collection[int]) -> None:
        """Remove the checkpoints of all other rounds, and the folder if none is left."""
        if self._process:
            return
        folders = found(self.folder)
        for number in folders.keys() - set(rounds):
            self._remove(folders[number])
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write_all(self, several: Sequence[Saved]) -> None:
        for saved in several:
            self._write(saved)

    def _write(self, saved: Saved) -> None:
        target = self.folder / f"round-{saved.about['round']:06}"
        unfinished = self.folder / UNFINISHED
        for folder in (self.folder, unfinished):  # but not that of the run, if it was removed
            folder.mkdir(exist_ok=True)
        write_arrays(unfinished, saved.arrays, self._process, self._processes)
        if self._process:
            self._wait_for(target)
            return
        for process in range(self._processes):
            self._wait_for(unfinished / SUMS.format(process))
        write_manifest(unfinished, saved.about)
        unfinished.rename(target)
        sync(self.folder)
        self._remove_old()

    def _wait_for(self, path: Path) -> None:
        """Wait until another process has made a file or a folder."""
        while not path.exists():
            if self._closing.wait(POLL_SECONDS):
                raise RuntimeError("another process did not write its part")

    def _remove_old(self) -> None:
        """Remove all checkpoints but the latest and the best one."""
        folders = found(self.folder)
        quality = {number: validation_of(folder) for number, folder in folders.items()}
        latest = max(folders)
        best = max(folders, key=lambda number: (quality[number], number))
        if best == latest:
            best = max((number for number in folders if number < latest), default=latest)
        for number in folders.keys() - {latest, best}:
            self._remove(folders[number])

    def _remove(self, folder: Path) -> None:
        # renamed first: a folder that is partly removed must not look like a checkpoint
        renamed = folder.rename(self.folder / f"{UNFINISHED}-{folder.name}")
        shutil.rmtree(renamed)


class Joined:
    """An array that is divided by its first axis; only the rows that are asked for are read."""

    def __init__(self, parts: Sequence[np.ndarray]):
        """
        Args:
            parts: in order; arrays that differ in the length of the first axis alone.
        """
        lengths = [len(part) for part in parts]
        self._parts, self._first = parts, np.cumsum([0, *lengths[:-1]]).tolist()
        self.shape, self.dtype = (sum(lengths), *parts[0].shape[1:]), parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by a slice without a step, or by their numbers; slices of other axes may follow."""
        rows, *others = index if isinstance(index, tuple) else (index,)
        parts = list(zip(self._first, self._parts, strict=True))
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            inside = [part[max(0, start - first) : max(0, stop - first)] for first, part in parts]
            found_rows = np.concatenate(inside)
        else:
            found_rows = np.empty((len(rows), *self.shape[1:]), self.dtype)
            for first, part in parts:
                here = (rows >= first) & (rows < first + len(part))
                found_rows[here] = part[rows[here] - first]
        return found_rows[:, *others] if others else found_rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Damaged(Exception):
    """A checkpoint differs from what was written."""


def found(folder: Path) -> dict[int, Path]:
    """Folders of checkpoints by round, including damaged ones."""
    if not folder.is_dir():
        return {}
    names = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in names if match}


def validation_of(folder: Path) -> float:
    """The validation metric of a checkpoint; -1 if it cannot be read."""
    try:
        return float(json.loads((folder / ABOUT).read_text())["validation"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1.0


def write(folder: Path, saved: Saved) -> None:
    """Write a checkpoint of one process into an empty folder, with the manifest last."""
    write_arrays(folder, saved.arrays)
    write_manifest(folder, saved.about)


def write_arrays(folder: Path, arrays: Arrays, process: int = 0, processes: int = 1) -> None:
    """Write the arrays of a process, then size and checksum of that file."""
    named: dict[str, Any] = flat(arrays)
    path = folder / ARRAYS.format(process, processes)
    put(path, lambda file: np.savez(file, **named))
    sums, partial = folder / SUMS.format(process), folder / f"{SUMS.format(process)}.partial"
    put(partial, _json(_sums_of(path)))
    partial.rename(sums)


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write the rest of a checkpoint, whose arrays are all there, with the manifest last."""
    put(folder / ABOUT, _json(about))
    files = _sums_of(folder / ABOUT)
    for path in sorted(folder.glob(SUMS.format("*"))):
        files |= json.loads(path.read_text())
        path.unlink()
    put(folder / MANIFEST, _json({"format": FORMAT, "files": files}))
    sync(folder)


def _sums_of(path: Path) -> dict[str, Any]:
    """Size and checksum of a file, by its name."""
    return {path.name: [path.stat().st_size, sha256(path)]}


def read(folder: Path) -> Saved:
    """Check every file of a checkpoint, then open it. The rows of its arrays are read later, when
    they are asked for.

    Raises:
        Damaged: a file is missing or has changed. The message names it.
        CannotResume: the checkpoint has the format of an earlier or later version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        number, files = int(manifest["format"]), manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{MANIFEST}: {in_short(error)}") from None
    if number != FORMAT:
        versions = "earlier" if number < FORMAT else "later"
        raise CannotResume(
            f"{folder}: is of format {number}, this version reads {FORMAT}; runs of {versions} "
            "versions cannot be read, so run again."
        )
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{name} has {path.stat().st_size} bytes of {size}")
        if sha256(path) != checksum:
            raise Damaged(f"{name} has another checksum")
    parts: dict[str, list[np.ndarray]] = {}
    for name in sorted(set(files) - {ABOUT}):
        for key, array in opened(folder / name).items():
            parts.setdefault(key, []).append(array)
    joined = {key: Joined(rows) if rows[1:] else rows[0] for key, rows in parts.items()}
    return Saved(json.loads((folder / ABOUT).read_text()), _nested(joined))


def opened(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed npz file by name, mapped into memory and read-only."""
    arrays = {}
    with ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset)
            sizes = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])  # of name and extra field
            file.seek(sum(sizes), os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
            order = "F" if in_columns else "C"
            name = member.filename.removesuffix(".npy")
            if math.prod(shape):
                arrays[name] = np.memmap(path, dtype, "r", file.tell(), shape, order)
            else:
                arrays[name] = np.empty(shape, dtype)  # no bytes to map
    return arrays


def flat(arrays: Arrays) -> dict[str, np.ndarray]:
    """The same arrays in one dictionary, under names such as `state/clients-items`.

    Raises:
        TypeError: an array holds objects, or its type is not built into NumPy.
    """
    named: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        inner = value if isinstance(value, dict) else {"": value}
        named |= {f"{name}/{part}" if part else name: array for part, array in inner.items()}
    for name, array in named.items():
        if array.dtype.hasobject or array.dtype.isbuiltin != 1:
            raise TypeError(f"{name}: is of type {array.dtype}, which a checkpoint cannot hold")
    return named


def _nested(named: Mapping[str, np.ndarray | Joined]) -> Arrays:
    """The inverse of `flat`."""
    arrays: Arrays = {}
    for name, array in named.items():
        outer, _, part = name.partition("/")
        inner = arrays.setdefault(outer, {}) if part else arrays
        assert isinstance(inner, dict)
        inner[part or outer] = array
    return arrays


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file and flush it to disk.

    Args:
        path: the file.
        write: writes the content to the open file.
    """
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _json(value: dict[str, Any]) -> Callable[[BinaryIO], Any]:
    """A function that writes an object as JSON."""
    return lambda file: file.write(f"{json.dumps(value, indent=1)}\n".encode())


def sync(folder: Path) -> None:
    """Flush the entries of a folder to disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)

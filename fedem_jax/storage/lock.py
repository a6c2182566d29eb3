"""Locks a folder, so that one process at a time works in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedem_jax.errors import UserError
from fedem_jax.storage.files import disk_errors

LOCK = "lock"
"""File in the folder that is locked, and that names the process."""


class Lock:
    """A lock on a folder. This process holds it until it releases it or ends.

    The file of a dead process remains, but locks nothing. On a file system without locks, other
    processes are not kept out.

    Raises:
        UserError: another process holds the lock. The sentence names it.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path):
        self._path = folder / LOCK
        self._file = -1
        while self._file < 0:
            self._file = self._open_locked()
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps(holder).encode() + b"\n")

    def _open_locked(self) -> int:
        """Open and lock the file; -1 if another process removed it in between."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise UserError(
                f"{self._path.parent}: {_named(self._path)} is at work there; let it end or stop "
                "it."
            ) from None
        except OSError:  # the file system has no locks
            return file
        try:
            if os.path.samestat(os.fstat(file), os.stat(self._path)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)
        return -1

    def release(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which is made if it is absent.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    with disk_errors(folder, "give another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder)
    try:
        yield
    finally:
        lock.release()


def holder(folder: Path) -> str:
    """A description of the process at work in a folder; empty if there is none."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(folder / LOCK)
    except OSError:
        pass
    finally:
        os.close(file)
    return ""


def _named(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, KeyError):
        return "another process"

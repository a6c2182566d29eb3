"""Writes files whole or not at all, and reads them with clear errors."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from fedem_jax.errors import UserError, in_short
from fedem_jax.units import in_bytes

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk without room, or of a limit that the system sets."""


@contextmanager
def disk_errors(path: Path, remedy: str | Callable[[OSError], str]) -> Iterator[None]:
    """Turn an `OSError` of a write into a `UserError`.

    Args:
        path: the file, for the message.
        remedy: end of the message, what the user can do; or a function that says it of the error.
    """
    try:
        yield
    except OSError as error:
        hint = remedy if isinstance(remedy, str) else remedy(error)
        raise UserError(f"{path}: cannot be written ({in_short(error)}); {hint}.") from None


def check_room(path: Path, size: int, what: str, remedy: str) -> None:
    """Refuse to begin what will not fit on a disk.

    Args:
        path: a file or folder on it, which need not exist yet.
        size: bytes that will be written.
        what: for the message, what they are.
        remedy: end of the message, what the user can do.

    Raises:
        UserError: fewer bytes are free.
    """
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise UserError(
            f"{path}: {what} take {in_bytes(size)}, and {in_bytes(free)} are free; {remedy}."
        )


@contextmanager
def drawing(path: Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Draw pictures; an error is said and goes no further, since no figures depend on them.

    Args:
        path: the picture or its folder, for the sentence.
        say: takes the sentence.
    """
    try:
        yield
    except Exception as error:
        say(f"{path}: cannot be drawn ({in_short(error).rstrip('.')}).")


def resume_hint(directory: Path, error: Exception) -> str:
    """How a run goes on whose files could not be written."""
    if not directory.is_dir():
        return "the folder of the run was removed, so run again"
    full = isinstance(error, OSError) and error.errno in FULL
    remedy = "make room" if full else "mend that"
    return f"{remedy}, then go on with `fedem train --resume {directory}`"


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        write: writes the content to the path that it is given.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Append a text to a file: all of it, or nothing if the disk is full."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise


def json_line(value: dict[str, Any]) -> str:
    """An object as a line of JSON."""
    return json.dumps(value, default=plain) + "\n"


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The values with None for numbers that are not finite, which JSON cannot hold."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in values.items()
    }


def plain(value: Any) -> Any:
    """A NumPy or JAX value as a number or a list."""
    return value.tolist()


def read(path: Path) -> str:
    """The text of a file of a finished run.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        return path.read_text()
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; the run has not finished.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def parse(path: Path, text: str, line: int | None = None) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        path: the file, for the message.
        text: the text of the file, or of a line in it.
        line: number of that line, from 1; None if `text` is the file.

    Raises:
        UserError: the text is not a JSON object. The sentence names file and line.
    """
    where = f"{path}, line {line}" if line else f"{path}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is not JSON ({error}); mend or remove it.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: is no JSON object; mend or remove it.")
    return value

"""`--plugin FILE`: a Python file that registers a method, a loss or a backbone, before a command
reads its options."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from fedem_jax.errors import UserError, in_short

FLAG = "--plugin"
WANTED = "a Python file that registers a method, a loss or a backbone"


def load_plugins(args: Sequence[str]) -> list[str]:
    """Run the files of all `--plugin FILE`.

    Args:
        args: command and options.

    Returns:
        The arguments without these.

    Raises:
        UserError: a file is missing, or running it fails; the sentence names file and line.
    """
    rest, given = [], iter(args)
    for arg in given:
        name, equals, value = arg.partition("=")
        if name != FLAG:
            rest.append(arg)
            continue
        file = value if equals else next(given, "")
        if not file:
            raise UserError(f"{FLAG}: give {WANTED}.")
        load_file(Path(file))
    return rest


def load_file(path: Path) -> None:
    """Run a Python file as a module of its own."""
    if not path.is_file():
        raise UserError(f"{FLAG}: {path} is no file; give {WANTED}.")
    name = f"fedem_jax_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{FLAG}: {path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        line = f", line {_line(error, path)}" if _line(error, path) else ""
        kind = type(error).__name__
        raise UserError(f"{path}{line}: cannot be run ({kind}: {in_short(error)}).") from error


def _line(error: Exception, path: Path) -> int:
    """The last line of the file that an error passed; 0 if it passed none."""
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    found, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found

"""The process of a command: its devices, its characters and its exit status."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable

from fedem_jax.errors import UserError, in_short
from fedem_jax.runs.host import prepare_jax as prepare_jax

TRACEBACK = "FEDEM_TRACEBACK"
"""Variable of the environment that shows the traceback of an unforeseen error."""
PLAINLY = "fedem_jax.plainly"
"""Name of the rule for characters that an encoding lacks."""
PLAIN = {"±": "+-", "·": "-", "σ": "sigma", "…": "...", "→": "->", "─": "-", "│": "|"}
"""Characters that commands print, in plain signs."""


def run_command(work: Callable[[], None]) -> None:
    """Run a command; turn errors into a sentence and an exit status, as in `main`."""
    write_any_character()
    try:
        _flushed(work)
    except UserError as error:
        _complain("error", str(error))
        raise SystemExit(error.status) from None
    except KeyboardInterrupt as interrupt:
        _complain("interrupted", str(interrupt) or "nothing was written.")
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        kind = type(error).__name__
        _complain(
            "unforeseen",
            f"{kind}: {in_short(error)}; this is a fault of the program. {TRACEBACK}=1 before the "
            "same command shows where it arose.",
        )
        raise SystemExit(3) from None


def _flushed(work: Callable[[], None]) -> None:
    """Run a command, and write what it printed while a closed pipe can still be reported."""
    try:
        work()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def write_any_character() -> None:
    """Let output through that the encoding of the terminal lacks, in plain signs."""
    codecs.register_error(PLAINLY, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAINLY)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """The next character in plain signs; a byte of a file name that is no character as it is."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return PLAIN.get(sign, "?"), error.start + 1


def _complain(kind: str, sentence: str) -> None:
    from rich.text import Text

    from fedem_jax.report.terminal import Terminal

    console = Terminal(stderr=True)
    console.print(Text.assemble((f"{kind}:", "bold red"), f" {sentence}"), soft_wrap=True)

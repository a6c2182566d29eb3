"""The process of a command: its devices, its compilation cache and its exit status."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from fedem_jax.errors import UserError, in_short

TRACEBACK = "FEDEM_TRACEBACK"
"""Variable of the environment that shows the traceback of an unforeseen error."""
PLAINLY = "fedem_jax.plainly"
"""Name of the rule for characters that an encoding lacks."""
PLAIN = {"±": "+-", "·": "-", "σ": "sigma", "…": "...", "→": "->", "─": "-", "│": "|"}
"""Characters that commands print, in plain signs."""


def prepare_jax() -> None:
    """Use all cores and cache compiled programs. Call it before JAX first computes."""
    use_all_cores()
    cache_programs()


def use_all_cores() -> None:
    """Make each usable core of the host a JAX device. Call it before JAX first computes."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices that it has
            jax.config.update("jax_num_cpu_devices", usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_programs() -> None:
    """Cache compiled programs on disk, where that is possible; JAX_COMPILATION_CACHE_DIR changes
    the folder."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cache_folder() -> Path | None:
    """The folder of compiled programs, made if need be; None where there is no home, or none that
    can be written."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "fedem_jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def run_command(work: Callable[[], None]) -> None:
    """Run a command; turn errors into a sentence and an exit status, as in `main`."""
    write_any_character()
    try:
        _flushed(work)
    except UserError as error:
        _complain("error", str(error))
        raise SystemExit(2) from None
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

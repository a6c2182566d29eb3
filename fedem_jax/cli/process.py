"""The process of a command: its devices, its compilation cache and its exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fedem_jax.errors import UserError


def prepare_jax() -> None:
    """Use all cores and cache compiled programs. Call it before JAX first computes."""
    use_all_cores()
    cache_programs()


def use_all_cores() -> None:
    """Make each usable core of the host a JAX device. Call it before JAX first computes."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_programs() -> None:
    """Cache compiled programs on disk; JAX_COMPILATION_CACHE_DIR changes the folder."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "fedem_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run_command(work: Callable[[], None]) -> None:
    """Run a command; turn errors into a sentence and an exit status, as in `main`."""
    try:
        work()
    except UserError as error:
        _complain("error", str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        _complain("interrupted", str(interrupt) or "nothing was written.")
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _complain(kind: str, sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text.assemble((f"{kind}:", "bold red"), f" {sentence}"), soft_wrap=True)

"""The host that JAX runs on: all its cores are devices, and compiled programs are kept on disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any


def prepare_jax() -> None:
    """Use all cores and cache compiled programs. Call it before JAX first computes.

    What the caller or the environment has set already stays as it is.
    """
    use_all_cores()
    cache_programs()


def use_all_cores() -> None:
    """Make each usable core of the host a JAX device. Call it before JAX first computes."""
    import jax

    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if _configured("jax_num_cpu_devices") < 0:  # nobody has set it
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

    if _configured("jax_compilation_cache_dir") is None and (folder := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _configured(name: str) -> Any:
    """A setting of JAX, as it is now."""
    import jax

    return getattr(jax.config, name)


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

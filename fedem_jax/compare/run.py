"""Methods side by side: each with the same seeds on the same splits, one run after the other.

Every run has a run directory of its own, so that a comparison that was cut off goes on where it
stopped. JAX is imported only once something has to be trained.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    runtime_checkable,
)

from fedem_jax.config.base import differences
from fedem_jax.config.file import load_settings
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.runs.directory import (
    CANDIDATES,
    CONFIG,
    CURVES,
    METRICS,
    PER_CLIENT,
    RHO,
    RHO_PICTURE,
    SUMMARY,
    RunDirectory,
    check_free,
)
from fedem_jax.storage.checkpoint import FOLDER as CHECKPOINTS
from fedem_jax.storage.lock import exclusive

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation
from fedem_jax.compare.plan import Comparison, PlannedRun


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches a comparison, and observes its runs like any `runs.train.Observer`."""

    def say(self, sentence: str) -> None:
        """Something deserves notice."""

    def begin(self, run: PlannedRun) -> None:
        """A run is about to start."""

    def fail(self, run: PlannedRun, reason: str) -> None:
        """It could not be finished; the other seeds of its contender are left out."""

    def start(self, setting: dict[str, Any]) -> None: ...

    def record(self, record: dict[str, Any]) -> None: ...

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None: ...


def missing(comparison: Comparison) -> list[PlannedRun]:
    """The runs that are not finished yet.

    Raises:
        UserError: a folder holds a run with other settings, or nothing can be written.
    """
    check_free(comparison.directory)
    return [run for run in comparison.runs() if not finished(run)]


def finished(run: PlannedRun) -> bool:
    """Whether a run stands complete in its folder.

    Raises:
        UserError: the folder holds a run with other settings; says which.
    """
    if not (run.path / CONFIG).exists():
        return False
    ended = (run.path / SUMMARY).exists()
    try:
        found = load_settings(run.path / CONFIG)
    except UserError:
        if ended:
            raise
        return False  # cut off while it was written
    if changed := differences(dataclasses.asdict(found), dataclasses.asdict(run.config)):
        raise UserError(
            f"{run.path}: holds a run with other settings ({'; '.join(changed)}); "
            "give another --out or remove that folder."
        )
    return ended


def run_all(
    directory: Path,
    todo: Sequence[PlannedRun],
    watch: Watcher,
    stop: Callable[[], int] = lambda: 0,
) -> dict[str, str]:
    """Run one after the other. A contender that fails does not stop the others.

    Args:
        directory: of the comparison; made if need be.
        stop: as in `fedem_jax.runs.train.run`.

    Returns:
        Why contenders failed, by name.

    Raises:
        UserError: the data cannot be read, the folder cannot be made, or another process is at work
            there.
        Stopped: `stop` asked for it.
    """
    with exclusive(directory):
        return _run_all(todo, watch, stop)


def _run_all(todo: Sequence[PlannedRun], watch: Watcher, stop: Callable[[], int]) -> dict[str, str]:
    from fedem_jax.config.registry import METHODS
    from fedem_jax.data.sources import federation_of, load

    once = functools.lru_cache(maxsize=1)(load)  # all methods with a seed have the same data
    failed: dict[str, str] = {}
    for each in todo:
        if each.name in failed:
            continue
        if number := stop():
            raise Stopped(number)
        federation = federation_of(each.config, once)
        watch.begin(each)
        try:
            if each.config.method not in METHODS:
                raise UserError(f"method: {each.config.method} has settings, but no program.")
            _run(each, federation, watch, stop)
        except UserError as error:
            failed[each.name] = f"{str(error).rstrip('.')} (seed {each.config.seed})."
            watch.fail(each, str(error))
    return failed


def _run(each: PlannedRun, federation: Federation, watch: Watcher, stop: Callable[[], int]) -> None:
    """Go on with a run if it was cut off and can be gone on with, else begin it."""
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.runs.train import run

    done = False
    if (each.path / CONFIG).exists() and (each.path / CHECKPOINTS).is_dir():
        try:
            classes = load_settings(each.path / CONFIG).size_classes
            config = dataclasses.replace(each.config, size_classes=classes)
            run(
                config,
                federation,
                [watch],
                RunDirectory(each.path, True, watch.say, draw_run),
                stop,
            )
            done = True
        except CannotResume as error:
            watch.say(str(error))
    if not done:
        if _remove_remains(each.path):
            watch.say(f"{each.path}: was cut off, starts anew")
        run(
            each.config,
            federation,
            [watch],
            RunDirectory(each.path, say=watch.say, draw=draw_run),
            stop,
        )
    # many runs, each as large as its parameters: only what the tables need stays
    shutil.rmtree(each.path / CHECKPOINTS, ignore_errors=True)


def _remove_remains(path: Path) -> bool:
    """Remove what a run left that was cut off, and nothing else; whether there was anything."""
    names = (CONFIG, METRICS, SUMMARY, CURVES, CANDIDATES, PER_CLIENT, RHO, RHO_PICTURE)
    files = [path / name for name in names]
    files += [path / f"{name}.partial" for name in names]
    found = [file for file in files if file.exists()]
    for file in found:
        file.unlink()
    checkpoints = path / CHECKPOINTS
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints)
        found.append(checkpoints)
    return bool(found)

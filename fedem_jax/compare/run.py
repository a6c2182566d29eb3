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
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fedem_jax.compare.plan import Comparison, PlannedRun
from fedem_jax.config.base import Config, differences
from fedem_jax.config.file import load_settings
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.runs.checks import check_free
from fedem_jax.runs.names import CHECKPOINT, CONFIG, FILES, SUMMARY
from fedem_jax.storage.lock import exclusive

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation


@runtime_checkable
class Watcher(Protocol):
    """Whoever watches a comparison, and observes its runs like any `runs.train.Observer`."""

    def say(self, sentence: str) -> None:
        """Something deserves notice."""

    def begin(self, run: PlannedRun) -> None:
        """A run is about to start."""

    def fail(self, run: PlannedRun, reason: str) -> None:
        """It could not be finished; the other seeds of its method are left out."""

    def start(self, setting: Setting) -> None: ...

    def record(self, record: Record) -> None: ...

    def finish(self, summary: Summary, per_client: pd.DataFrame) -> None: ...


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
    """Run one after the other. A method that fails does not stop the others.

    Args:
        directory: of the comparison; made if need be.
        todo: the runs.
        watch: hears of every run.
        stop: as in `fedem_jax.runs.train.run`.

    Returns:
        Why methods failed, by name.

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
    """Resume a run if it was cut off and can be resumed, else begin it."""
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.runs.directory import RunDirectory
    from fedem_jax.runs.train import run

    def run_into(config: Config, resume: bool) -> None:
        directory = RunDirectory(each.path, resume, watch.say, draw_run)
        run(config, federation, [watch], directory, stop)

    done = False
    if (each.path / CONFIG).exists() and (each.path / CHECKPOINT).is_dir():
        try:
            classes = load_settings(each.path / CONFIG).size_classes
            run_into(dataclasses.replace(each.config, size_classes=classes), resume=True)
            done = True
        except CannotResume as error:
            watch.say(str(error))
    if not done:
        if _remove_remains(each.path):
            watch.say(f"{each.path}: was cut off, starts anew")
        run_into(each.config, resume=False)
    # many runs, each as large as its parameters: only what the tables need stays
    shutil.rmtree(each.path / CHECKPOINT, ignore_errors=True)


def _remove_remains(path: Path) -> bool:
    """Remove what a run left that was cut off, and nothing else; whether there was anything."""
    files = [path / name for name in FILES] + [path / f"{name}.partial" for name in FILES]
    found = [file for file in files if file.exists()]
    for file in found:
        file.unlink()
    checkpoints = path / CHECKPOINT
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints)
        found.append(checkpoints)
    return bool(found)

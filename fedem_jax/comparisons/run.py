"""The runs of a comparison: all methods with the same seeds on the same splits.

Every run has its own run directory. A comparison that was interrupted therefore runs only what is
missing. JAX is imported only when something has to be trained.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedem_jax.comparisons.plan import Comparison, PlannedRun
from fedem_jax.config.base import Config
from fedem_jax.config.file import load_settings
from fedem_jax.config.words import differences
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.runs.checks import check_free
from fedem_jax.runs.names import CHECKPOINT, CONFIG, FILES, SUMMARY
from fedem_jax.runs.observers import Observer
from fedem_jax.storage.lock import exclusive

if TYPE_CHECKING:
    from fedem_jax.data.federation import Federation


class Watcher(Observer):
    """Follows a comparison, and observes its runs. A subclass has the methods that it needs."""

    def say(self, sentence: str) -> None:
        """Show a sentence to the user."""

    def begin(self, run: PlannedRun) -> None:
        """Called before a run starts."""

    def fail(self, run: PlannedRun, reason: str) -> None:
        """Called when a run failed. The other seeds of its method are left out."""


def missing(comparison: Comparison) -> list[PlannedRun]:
    """The runs that are not finished yet.

    Raises:
        UserError: a folder holds a run with other settings, or cannot be written.
    """
    check_free(comparison.directory)
    return [run for run in comparison.runs() if not finished(run)]


def finished(run: PlannedRun) -> bool:
    """Whether the folder of a run holds its summary.

    Raises:
        UserError: the folder holds a run with other settings; the message names them.
    """
    if not (run.path / CONFIG).exists():
        return False
    ended = (run.path / SUMMARY).exists()
    try:
        saved = load_settings(run.path / CONFIG)
    except UserError:
        if ended:
            raise
        return False  # interrupted while it was written
    if changed := differences(dataclasses.asdict(saved), dataclasses.asdict(run.config)):
        raise UserError(
            f"{run.path}: holds a run with other settings ({'; '.join(changed)}); "
            "give another --out or remove that folder."
        )
    return ended


def kept_bytes(todo: Sequence[PlannedRun], federation: Federation) -> int:
    """Bytes on disk of the states that these runs keep at most.

    A method that cannot run on the federation counts nothing.
    """
    from fedem_jax.runs.simulation import kept_bytes as of_run

    @functools.cache
    def of_method(config: Config) -> int:
        try:
            return of_run(config, federation)
        except UserError:
            return 0

    return sum(of_method(dataclasses.replace(run.config, seed=0, out="")) for run in todo)


def run_all(
    directory: Path,
    todo: Sequence[PlannedRun],
    watch: Watcher,
    stop: Callable[[], int] = lambda: 0,
    federation: Federation | None = None,
    observers: Callable[[Config], Sequence[Observer]] = lambda config: (),
) -> dict[str, str]:
    """Run one after the other. A method that fails does not stop the others.

    Args:
        directory: of the comparison; made if missing.
        todo: the runs.
        watch: follows every run.
        stop: as in `fedem_jax.runs.train.run`.
        federation: the data of all runs; None: what their settings name, split by their seed.
        observers: makes further observers of a run from its settings.

    Returns:
        Why methods failed, by name.

    Raises:
        UserError: the data cannot be read, the folder cannot be made, or another process uses it.
        Stopped: `stop` asked for it.
    """
    from fedem_jax.data.sources import federation_of, load

    load_once = functools.lru_cache(maxsize=1)(load)  # all methods with a seed have the same data
    failed: dict[str, str] = {}
    with exclusive(directory):
        for planned in todo:
            if planned.name in failed:
                continue
            if number := stop():
                raise Stopped(number)
            data = federation or federation_of(planned.config, load_once)
            watch.begin(planned)
            try:
                _run(planned, data, [watch, *observers(planned.config)], watch.say, stop)
            except UserError as error:
                failed[planned.name] = f"{str(error).rstrip('.')} (seed {planned.config.seed})."
                watch.fail(planned, str(error))
    return failed


def _run(
    planned: PlannedRun,
    federation: Federation,
    observers: Sequence[Observer],
    say: Callable[[str], None],
    stop: Callable[[], int],
) -> None:
    """Resume a run if it was interrupted and can be resumed, else begin it."""
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.runs.directory import RunDirectory
    from fedem_jax.runs.train import run

    def run_into(config: Config, resume: bool) -> None:
        directory = RunDirectory(planned.path, resume, say, draw_run)
        run(config, federation, observers, directory, stop)

    done, checkpoints = False, planned.path / CHECKPOINT
    if (planned.path / CONFIG).exists() and checkpoints.is_dir():
        try:
            classes = load_settings(planned.path / CONFIG).size_classes
            run_into(dataclasses.replace(planned.config, size_classes=classes), resume=True)
            done = True
        except CannotResume as error:
            say(str(error))
    if not done:
        if _remove_files(planned.path):
            say(f"{planned.path}: was cut off, starts anew")
        run_into(planned.config, resume=False)


def _remove_files(path: Path) -> bool:
    """Remove the files of an interrupted run, and nothing else; whether there were any."""
    files = [path / name for name in (*FILES, *(f"{name}.partial" for name in FILES))]
    present = [file for file in files if file.exists()]
    for file in present:
        file.unlink()
    checkpoints = path / CHECKPOINT
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints)
        present.append(checkpoints)
    return bool(present)

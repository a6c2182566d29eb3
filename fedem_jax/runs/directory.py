"""The run directory: what a run leaves on disk, written as it goes and read back.

config.json         all settings, re-runnable
candidates.npz      held-out items and the candidates they are ranked against, as fixed by the seed
metrics.jsonl       one line of JSON per evaluated round
summary.json        headline, best test value, protocol, fingerprint, versions, device, times
per_client.parquet  each client's ranks and metrics at the best validation round, if asked for
curves.png          learning curves
checkpoint/         what the run needs to go on, if it is cut off (`fedem_jax.storage.checkpoint`)
lock                who is at work here, while somebody is
rho.jsonl, rho.png  what elastic merging takes up, where the method learns that: counts after each
                    evaluated round (`fedem_jax.evaluation.rho`), and their picture
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.config.base import INERT, Config, differences
from fedem_jax.config.file import load_settings
from fedem_jax.config.settings import FedEM
from fedem_jax.data.federation import Federation
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.storage.files import (
    append,
    disk_errors,
    json_line,
    parse,
    plain,
    put,
    read,
    resume_hint,
)
from fedem_jax.storage.lock import Lock, holder

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "curves.png"
CANDIDATES, PER_CLIENT = "candidates.npz", "per_client.parquet"
RHO, RHO_PICTURE = "rho.jsonl", "rho.png"


class Run(NamedTuple):
    """A finished run, read back from its directory."""

    config: Config
    """Its settings."""
    records: list[dict[str, Any]]
    """One per evaluated round, in order."""
    summary: dict[str, Any]
    """What the run ended with."""


class RunDirectory:
    """Observer that writes a run directory. Creates nothing before `start`.

    As a context manager it keeps other processes out meanwhile.
    """

    def __init__(
        self,
        path: str | Path,
        resume: bool = False,
        say: Callable[[str], None] = warnings.warn,
        draw: Callable[[Path, Run], None] = lambda path, run: None,
    ):
        """
        Args:
            path: the folder.
            resume: go on with the run that it holds.
            say: told, in a sentence, of what deserves notice.
            draw: draws the finished run into its folder.
        """
        self._draw = draw
        self.path, self.resume, self.say = Path(path), resume, say
        self._records: list[dict[str, Any]] = []
        self._config: Config = FedEM()
        self._lock: Lock | None = None

    def __enter__(self) -> RunDirectory:
        """Lock the folder, which is made if need be.

        Raises:
            UserError: another process is at work there; it holds another run, or cannot be made.
        """
        if not self.resume:
            check_free(self.path)  # before anything is made
        with disk_errors(self.path, "give another --out"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path)
        return self

    def __exit__(self, *_) -> None:
        assert self._lock is not None
        self._lock.release()

    def start(self, setting: dict[str, Any]) -> None:
        """Make the folder; write the settings and what the clients will be asked.

        Raises:
            UserError: nothing can be written there; it is taken.
            CannotResume: it is to be gone on with, but holds a run with other settings.
        """
        self._config = setting["config"]
        if self.resume:
            check_settings(self.path, self._config)
        elif self._lock is None:
            check_free(self.path)
        else:
            check_untaken(self.path)
        with disk_errors(self.path, "give another --out"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._config.save(self.path / CONFIG)
            if not (self.resume and (self.path / CANDIDATES).exists()):
                save_candidates(self.path / CANDIDATES, setting["federation"])

    def rewind(self, number: int, with_rho: bool = False) -> list[dict[str, Any]]:
        """The records up to round `number`, as they were told; later ones are removed.

        Args:
            number: an evaluated round, or 0.
            with_rho: whether they came with counts of rho.

        Raises:
            CannotResume: one of them is missing or broken; names file and line.
        """
        every = self._config.eval_every
        rounds = [*range(every, number, every), *([number] if number else ())]
        records = _up_to(self.path / METRICS, rounds)
        counts = _up_to(self.path / RHO, rounds if with_rho else ())
        with disk_errors(self.path, resume_hint(self.path)):
            for name, lines in ((METRICS, records), (RHO, counts)):
                if (self.path / name).exists():
                    text = "".join(map(json_line, lines))
                    put(self.path / name, lambda path, text=text: path.write_text(text))
        for record, line in zip(records, counts, strict=False):
            record["rho"] = line["counts"]
        self._records = list(records)
        return records

    def record(self, record: dict[str, Any]) -> None:
        """Append one line to each file; they outlive the process when this returns.

        Raises:
            UserError: the disk takes no more; what stood there before still does.
        """
        self._records.append(record)
        values = {name: value for name, value in record.items() if name != "rho"}
        with disk_errors(self.path / METRICS, resume_hint(self.path)):
            append(self.path / METRICS, json_line(values))
            if "rho" in record:
                counts = {"round": record["round"], "counts": record["rho"]}
                append(self.path / RHO, json_line(counts))

    def flush(self) -> None:
        """See to it that all records outlive the system, too."""
        with disk_errors(self.path, resume_hint(self.path)):
            for name in (METRICS, RHO):
                if (self.path / name).exists():
                    with (self.path / name).open("a") as file:
                        os.fsync(file.fileno())

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None:
        """Have the run drawn and write the summary: a run that has one has all.

        Raises:
            UserError: the disk takes no more; the records are kept.
        """
        with disk_errors(self.path, resume_hint(self.path)):
            if self._config.per_client:
                from fedem_jax.evaluation.summary import with_metrics

                table = with_metrics(per_client, self._config.top_k)
                put(self.path / PER_CLIENT, table.to_parquet)
            self._draw(self.path, Run(self._config, self._records, summary))
            text = json.dumps(summary, indent=2, default=plain) + "\n"
            put(self.path / SUMMARY, lambda path: path.write_text(text))


RESUMED_WITH = tuple(name for name in INERT if name != "size_classes")
"""Settings that a run may go on with in another way."""


def check_settings(path: Path, config: Config) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        CannotResume: the settings in the folder differ; says how.
    """
    found = dataclasses.asdict(load_settings(path / CONFIG))
    if changed := differences(found, dataclasses.asdict(config), RESUMED_WITH):
        raise CannotResume(
            f"{path}: holds a run with other settings ({'; '.join(changed)}); a run goes on with "
            "its own alone."
        )


def check_free(path: str | Path) -> None:
    """Refuse a run directory that is taken or cannot be made.

    Raises:
        UserError: it holds another run, is a file, or lies where nothing can be written.
    """
    path = Path(path)
    if busy := holder(path):
        raise UserError(f"{path}: {busy} is at work there; give another --out.")
    check_untaken(path)
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file; give another --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: nothing can be written there; give another --out.")


def check_untaken(path: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        UserError: it does; if that can be gone on with, says how.
    """
    if _taken(path):
        whole = (path / SUMMARY).exists() or not (path / CONFIG).exists()
        told = "" if whole else f" that can be gone on with, `fedem train --resume {path}`"
        raise UserError(
            f"{path}: already holds a run{told}; give another --out or remove the folder."
        )


def first_free(path: str | Path) -> Path:
    """`path` if it holds no run, else the first of `<path>-2`, `<path>-3`, ... that holds none."""
    path, number = Path(path), 1
    candidate = path
    while _taken(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def read_run(path: str | Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: a file is missing or broken; the sentence names it, and the line if there is one.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such run directory.")
    config = load_settings(path / CONFIG)
    lines = read(path / METRICS).splitlines()
    records = [parse(path / METRICS, line, number) for number, line in enumerate(lines, start=1)]
    if not records:
        raise UserError(f"{path / METRICS}: holds no record; the run ended before its first round.")
    summary = parse(path / SUMMARY, read(path / SUMMARY))
    if missing := [name for name in ("top_k", "chance", "by_activity") if name not in summary]:
        raise UserError(
            f"{path / SUMMARY}: lacks '{missing[0]}', as those of older versions do; run again."
        )
    return Run(config, records, summary)


def save_candidates(path: Path, federation: Federation) -> None:
    """Write what the clients are asked: numbers of items, the labels that they stand for, and the
    fingerprint of the split. Readable with `numpy.load(path)`, without pickles."""
    names = ("val_item", "test_item", "val_candidates", "test_candidates", "fingerprint")
    labels = {name: getattr(federation, name) for name in ("user_ids", "item_ids")}
    arrays = {name: getattr(federation, name) for name in names} | {
        name: ids.astype(str) if ids.dtype == object else ids for name, ids in labels.items()
    }

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    put(path, write)


def _up_to(path: Path, rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Records of these rounds. What follows them may be torn, and is not looked at."""
    lines = read(path).splitlines()[: len(rounds)] if rounds else []
    try:
        records = [parse(path, text, line) for line, text in enumerate(lines, start=1)]
    except UserError as error:
        raise CannotResume(f"{error}") from None
    there = [record.get("round") for record in records]
    if there != list(rounds):
        lost = next(number for number in rounds if number not in there)
        raise CannotResume(
            f"{path}: lacks round {lost}, which lies before the last checkpoint; mend it, or run "
            "again with another --out."
        )
    return records


def _taken(path: Path) -> bool:
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY))

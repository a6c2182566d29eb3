"""Writes the run directory while the run goes. `fedem_jax.runs.names` lists its files."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.data.federation import Federation
from fedem_jax.errors import CannotResume
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.evaluation.summary import with_metrics
from fedem_jax.runs.checks import check_free, check_settings, check_untaken
from fedem_jax.runs.names import CANDIDATES, CONFIG, METRICS, PER_CLIENT, RHO, SUMMARY
from fedem_jax.runs.observers import Observer
from fedem_jax.runs.reading import Run, read_lines
from fedem_jax.storage.files import append, disk_errors, drawing, json_line, plain, put, resume_hint
from fedem_jax.storage.lock import Lock


class RunDirectory(Observer):
    """Observer that writes a run directory.

    As a context manager it locks the folder against other processes.
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
            path: the folder. It is made by `__enter__`, or else by `on_start`.
            resume: whether to resume the run that it holds.
            say: called with each sentence that the user should read.
            draw: draws the finished run into its folder.
        """
        self.path, self.resume, self.say = Path(path), resume, say
        self._draw = draw
        self._config: Config | None = None
        self._records: list[Record] = []
        self._lock: Lock | None = None

    def __enter__(self) -> RunDirectory:
        """Make and lock the folder.

        Raises:
            UserError: another process uses it, it holds another run, or it cannot be made.
        """
        if not self.resume:
            check_free(self.path)  # before the folder is made
        with disk_errors(self.path, "give another --out"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path)
        return self

    def __exit__(self, *_) -> None:
        assert self._lock is not None
        self._lock.release()

    @property
    def config(self) -> Config:
        """The settings of the run that was started."""
        assert self._config is not None
        return self._config

    def on_start(self, setting: Setting) -> None:
        """Write the settings and the candidates.

        Raises:
            UserError: the folder cannot be written, or it holds another run.
            CannotResume: the run to be resumed has other settings or other data.
        """
        self._config = setting["config"]
        if self.resume:
            check_settings(self.path, self.config)
            check_data(self.path, setting["federation"])
        elif self._lock is None:
            check_free(self.path)
        else:
            check_untaken(self.path)
        with disk_errors(self.path, "give another --out"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.config.save(self.path / CONFIG)
            if not (self.resume and stored_fingerprint(self.path)):
                save_candidates(self.path / CANDIDATES, setting["federation"])

    def rewind(self, number: int, with_rho: bool = False) -> list[Record]:
        """Remove the records after round `number`, and return the others.

        Args:
            number: an evaluated round, or 0.
            with_rho: whether the records have counts of rho.

        Raises:
            CannotResume: a record is missing or broken; the message names file and line.
        """
        records = self.recorded(number, with_rho)
        with disk_errors(self.path, partial(resume_hint, self.path)):
            if (self.path / METRICS).exists():
                self._rewrite(METRICS, [without_rho(record) for record in records])
            if (self.path / RHO).exists():
                self._rewrite(RHO, [rho_line(record) for record in records if with_rho])
        self._records = list(records)
        return records

    def recorded(self, number: int, with_rho: bool = False) -> list[Record]:
        """The records up to round `number`; arguments and errors as for `rewind`."""
        rounds = []
        if number:
            every = self.config.eval_every
            rounds = [*range(every, number, every), number]
        records = cast(list[Record], read_lines(self.path / METRICS, rounds))
        if with_rho:
            counts = read_lines(self.path / RHO, rounds)
            for record, line in zip(records, counts, strict=True):
                record["rho"] = line["counts"]
        return records

    def _rewrite(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        text = "".join(map(json_line, lines))
        put(self.path / name, lambda path: path.write_text(text))

    def on_resume(self, records: Sequence[Record]) -> None:
        """Nothing: `rewind` has kept them."""

    def on_round(self, record: Record) -> None:
        """Append a line to each file. The lines survive the end of the process.

        Raises:
            UserError: it cannot be written; earlier lines are kept.
        """
        self._records.append(record)
        with disk_errors(self.path / METRICS, partial(resume_hint, self.path)):
            append(self.path / METRICS, json_line(without_rho(record)))
            if "rho" in record:
                append(self.path / RHO, json_line(rho_line(record)))

    def flush(self) -> None:
        """Force all records to disk, so that they survive a crash of the system."""
        with disk_errors(self.path, partial(resume_hint, self.path)):
            for name in (METRICS, RHO):
                if (self.path / name).exists():
                    with (self.path / name).open("a") as file:
                        os.fsync(file.fileno())

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Draw the run, then write its summary.

        A run with a summary therefore has all its files, except pictures that cannot be drawn.

        Raises:
            UserError: a file cannot be written; the records are kept.
        """
        with disk_errors(self.path, partial(resume_hint, self.path)):
            if self.config.per_client:
                table = with_metrics(per_client, self.config.top_k)
                put(self.path / PER_CLIENT, table.to_parquet)
            with drawing(self.path, self.say):
                self._draw(self.path, Run(self.config, self._records, summary))
            text = json.dumps(summary, indent=2, default=plain) + "\n"
            put(self.path / SUMMARY, lambda path: path.write_text(text))


def without_rho(record: Record) -> dict[str, Any]:
    """A record as `metrics.jsonl` has it."""
    return {name: value for name, value in record.items() if name != "rho"}


def rho_line(record: Record) -> dict[str, Any]:
    """The counts of rho of a record, as rho.jsonl has them."""
    return {"round": record["round"], "counts": record.get("rho")}


def stored_fingerprint(path: Path) -> str:
    """Fingerprint of the split of the run in a folder; empty if that is not on disk."""
    try:
        with (path / CANDIDATES).open("rb") as file, np.load(file) as arrays:
            return str(arrays["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return ""


def check_data(path: Path, federation: Federation) -> None:
    """Refuse to resume a run on other data. Their file may have moved.

    Raises:
        CannotResume: the split in the folder is another.
    """
    found = stored_fingerprint(path)
    if found and found != federation.fingerprint:
        raise CannotResume(
            f"{path}: holds a run on other data (data '{found}', now "
            f"'{federation.fingerprint}'); give back the data that it began with."
        )


def save_candidates(path: Path, federation: Federation) -> None:
    """Write the numbers of the items that clients rank, all labels, and the split's fingerprint.

    `numpy.load(path)` reads the file, without pickles.
    """
    names = (
        "val_offsets", "val_item", "val_candidates", "test_offsets", "test_item", "test_candidates",
        "fingerprint",
    )  # fmt: skip
    labels = {name: getattr(federation, name) for name in ("user_ids", "item_ids")}
    arrays = {name: getattr(federation, name) for name in names} | {
        name: ids.astype(str) if ids.dtype == object else ids for name, ids in labels.items()
    }

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    put(path, write)

"""The run directory: what a run leaves on disk, written as it goes and read back.

config.json         all settings, re-runnable
candidates.npz      held-out items and the candidates they are ranked against, as fixed by the seed
metrics.jsonl       one line of JSON per evaluated round
summary.json        headline, best test value, protocol, fingerprint, versions, device, times
per_client.parquet  each client's ranks and metrics at the best validation round, if asked for
curves.png          learning curves
rho.jsonl, rho.png  what elastic merging takes up, where the method learns that: counts after each
                    evaluated round (`fedem_jax.rho`), and their picture
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedem_jax.config import Config
from fedem_jax.errors import UserError
from fedem_jax.protocol import PROTOCOLS, SWITCHES
from fedem_jax.settings import FedEM, load_settings

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation

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
    """Observer that writes a run directory. Creates nothing before `start`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._records: list[dict[str, Any]] = []
        self._config: Config = FedEM()

    def start(self, setting: dict[str, Any]) -> None:
        """Make the folder; write the settings and what the clients will be asked."""
        check_free(self.path)
        self._config = setting["config"]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._config.save(self.path / CONFIG)
            save_candidates(self.path / CANDIDATES, setting["federation"])
        except OSError as error:
            raise _not_writable(self.path, error) from None

    def record(self, record: dict[str, Any]) -> None:
        """Append one line to each file; they are on disk when this returns."""
        self._records.append(record)
        plain = {name: value for name, value in record.items() if name != "rho"}
        _append(self.path / METRICS, plain)
        if "rho" in record:
            _append(self.path / RHO, {"round": record["round"], "counts": record["rho"]})

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None:
        """Write the summary, whole or not at all, and draw the learning curves."""
        if self._config.per_client:
            from fedem_jax.summary import with_metrics

            with_metrics(per_client, self._config.top_k).to_parquet(self.path / PER_CLIENT)
        partial = self.path / f"{SUMMARY}.partial"
        partial.write_text(json.dumps(summary, indent=2, default=_plain) + "\n")
        partial.replace(self.path / SUMMARY)
        draw_curves(self.path / CURVES, Run(self._config, self._records, summary))
        draw_rho(self.path, summary)


def check_free(path: str | Path) -> None:
    """Refuse a run directory that is taken or cannot be made.

    Raises:
        UserError: it holds another run, is a file, or lies where nothing can be written.
    """
    path = Path(path)
    if _taken(path):
        raise UserError(f"{path}: already holds a run; give another --out or remove the folder.")
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{nearest}: is a file; give another --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest}: nothing can be written there; give another --out.")


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
    lines = _read(path / METRICS).splitlines()
    records = [_parse(path / METRICS, line, number) for number, line in enumerate(lines, start=1)]
    if not records:
        raise UserError(f"{path / METRICS}: holds no record; the run ended before its first round.")
    summary = _parse(path / SUMMARY, _read(path / SUMMARY))
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
    np.savez_compressed(
        path,
        **{name: getattr(federation, name) for name in names},
        **{name: ids.astype(str) if ids.dtype == object else ids for name, ids in labels.items()},
    )


def protocol_label(summary: dict[str, Any]) -> str:
    """The protocol's name and, if single switches depart from the preset, what they are set to."""
    rules = PROTOCOLS.get(summary["protocol"].rstrip("*"))
    switches = summary["protocol_switches"]
    departs = [name for name in SWITCHES if rules and switches[name] != getattr(rules, name)]
    changes = ", ".join(f"{name.replace('_', ' ')} {switches[name]}" for name in departs)
    return f"{summary['protocol']} ({changes})" if changes else summary["protocol"]


def shared_k(summaries: Sequence[dict[str, Any]]) -> int:
    """The K that runs can be compared at: their own if it is one, else 10, which all record."""
    lengths = {summary["top_k"] for summary in summaries}
    return lengths.pop() if len(lengths) == 1 else 10


def draw_curves(path: Path, run: Run) -> None:
    """Draw the learning curves of one run."""
    from fedem_jax.plots import learning_curves

    method, dataset = run.summary["method"], run.summary["dataset"]
    learning_curves([(method, run)], path, title=f"{method} on {dataset}")


def draw_rho(path: Path, summary: dict[str, Any]) -> None:
    """Draw what merging took up in the run of this directory, if it learned that.

    Raises:
        UserError: the counts are broken; the sentence names file and line.
    """
    if not (path / RHO).exists():
        return
    from fedem_jax.rho_plot import rho_chart

    lines = enumerate(_read(path / RHO).splitlines(), start=1)
    found = [_parse(path / RHO, line, number) for number, line in lines]
    rounds, counts = ([line[name] for line in found] for name in ("round", "counts"))
    rho_chart(np.array(rounds), np.array(counts), path / RHO_PICTURE, summary)


def _append(path: Path, value: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(value, default=_plain) + "\n")


def _taken(path: Path) -> bool:
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; the run has not finished.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def _parse(path: Path, text: str, line: int | None = None) -> dict[str, Any]:
    where = f"{path}, line {line}" if line else f"{path}"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is not JSON ({error}); mend or remove it.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: is no JSON object; mend or remove it.")
    return value


def _plain(value: Any) -> Any:
    """NumPy and JAX values as plain numbers and lists."""
    return value.tolist()


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror}); give another --out.")

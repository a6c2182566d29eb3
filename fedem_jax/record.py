"""The run directory: what a run leaves on disk, written as it goes and read back.

config.json     all settings, re-runnable
metrics.jsonl   one line of JSON per evaluated round
summary.json    headline, best test value, protocol, fingerprint, versions, device, times
curves.png      learning curves
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.config import Config
from fedem_jax.errors import UserError

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "curves.png"


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

    def start(self, setting: dict[str, Any]) -> None:
        """Make the folder and write the settings."""
        check_free(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            setting["config"].save(self.path / CONFIG)
        except OSError as error:
            raise _not_writable(self.path, error) from None

    def record(self, record: dict[str, Any]) -> None:
        """Append one line; it is on disk when this returns."""
        self._records.append(record)
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(record, default=_plain) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, whole or not at all, and draw the learning curves."""
        partial = self.path / f"{SUMMARY}.partial"
        partial.write_text(json.dumps(summary, indent=2, default=_plain) + "\n")
        partial.replace(self.path / SUMMARY)
        draw_curves(self.path / CURVES, self._records, summary)


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
    config = Config.load(path / CONFIG)
    lines = _read(path / METRICS).splitlines()
    records = [_parse(path / METRICS, line, number) for number, line in enumerate(lines, start=1)]
    if not records:
        raise UserError(f"{path / METRICS}: holds no record; the run ended before its first round.")
    return Run(config, records, _parse(path / SUMMARY, _read(path / SUMMARY)))


def ranking_metrics(values: dict[str, float]) -> list[str]:
    """Names of the ranking metrics in a record's `val` or `test`, such as `hr@10`."""
    return [name for name in values if name.startswith(("hr@", "ndcg@"))]


def chance_level(metric: str, num_candidates: int) -> float:
    """Expected `hr@K` or `ndcg@K` of a random ranking of a held-out item among n negatives.

    HR@K = K / (n + 1);  NDCG@K = sum_{r=1..K} 1 / log2(r + 1) / (n + 1);  K at most n + 1.
    """
    kind, _, length = metric.partition("@")
    ranks = range(1, min(int(length), num_candidates + 1) + 1)
    gains = [1 / math.log2(rank + 1) if kind == "ndcg" else 1.0 for rank in ranks]
    return sum(gains) / (num_candidates + 1)


def draw_curves(path: Path, records: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Draw the learning curves of one run, captioned with what its numbers mean."""
    from fedem_jax.plots import Curve, learning_curves

    learning_curves(
        [Curve(summary["method"], records, summary["headline"]["round"])],
        path,
        title=f"{summary['method']} on {summary['dataset']}",
        subtitle=f"protocol {summary['protocol']} · fingerprint {summary['fingerprint']} · "
        f"{summary['clients']:,} clients · {summary['items']:,} items · seed {summary['seed']}",
        num_candidates=summary["protocol_switches"]["num_candidates"],
    )


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

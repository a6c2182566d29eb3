"""What the clients of a run would get without its merging, by runs with the same settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.references import Popularity
from fedem_jax.evaluation.records import Alternative
from fedem_jax.evaluation.summary import with_metrics
from fedem_jax.runs.names import ALTERNATIVES
from fedem_jax.runs.observers import Observer
from fedem_jax.runs.result import Result
from fedem_jax.runs.train import run
from fedem_jax.storage.files import disk_errors, plain, put


def run_alternatives(
    result: Result,
    observers: Callable[[str], Sequence[Observer]] = lambda name: (),
    stop: Callable[[], int] = lambda: 0,
    devices: Sequence[Any] = (),
) -> list[Alternative]:
    """Train the alternatives of a run on its data: `FedEM.alternatives`, and popularity.

    Args:
        result: a run of FedEM.
        observers: makes the observers of an alternative from its name.
        stop: as for `run`.
        devices: JAX devices to run on; empty: all.

    Returns:
        The run itself, then its alternatives.

    Raises:
        UserError: as `run`.
        Stopped: `stop` ended a run; nothing is returned.
    """
    config, found = result.config, [compared(result.config.method, result, result)]
    assert isinstance(config, FedEM)
    others: dict[str, Any] = dict(config.alternatives())
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(Popularity)
        if field.name not in ("method", "rounds", "on_nonfinite")
    }
    others["popularity"] = Popularity(**shared)
    for name, other in others.items():
        other = dataclasses.replace(other, keep="none", start="", eval_every=config.eval_every)
        done = run(other, result.federation, observers(name), stop=stop, devices=devices)
        found.append(compared(name, done, result))
    return found


def compared(name: str, other: Result, result: Result) -> Alternative:
    """The metrics of a run, and the lead of another over it, paired over the clients."""
    headline, k = other.summary["headline"], result.summary["top_k"]
    mine, theirs = (with_metrics(each.per_client, k) for each in (result, other))
    own = dataclasses.asdict(result.config)
    return {
        "name": name,
        "settings": {
            key: value
            for key, value in dataclasses.asdict(other.config).items()
            if own.get(key, value) != value and key != "keep"
        },
        "round": headline["round"],
        "test": headline["test"],
        "test_full": headline["test_full"],
        "interval": headline["interval"],
        "lead": {
            part: {metric: lead(mine, theirs, f"{part} {metric}") for metric in interval}
            for part, interval in headline["interval"].items()
        },
    }


def lead(mine: pd.DataFrame, theirs: pd.DataFrame, column: str) -> list[float]:
    """Mean of the paired differences over the clients that have a value, and its standard error."""
    gap = (mine[column] - theirs[column]).dropna().to_numpy(np.float64)
    error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
    return [float(gap.mean()), float(error)]


def write_alternatives(path: Path, found: Sequence[Alternative]) -> None:
    """Write them into a run directory.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps({"alternatives": found}, indent=2, default=plain) + "\n"
    with disk_errors(path, "make room, and give the same command with --resume"):
        put(path / ALTERNATIVES, lambda path: path.write_text(text))

"""The pictures of a run directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedem_jax.evaluation.records import Summary
from fedem_jax.report.curves import learning_curves
from fedem_jax.report.rho_chart import rho_chart
from fedem_jax.runs.names import CURVES, RHO, RHO_PICTURE
from fedem_jax.runs.reading import Run
from fedem_jax.storage.files import parse, read


def draw_run(path: Path, run: Run) -> None:
    """Draw the learning curves of a run and, where it learned rho, what merging took up."""
    draw_curves(path / CURVES, run)
    draw_rho(path, run.summary)


def draw_curves(path: Path, run: Run) -> None:
    """Draw the learning curves of one run."""
    method, dataset = run.summary["method"], run.summary["dataset"]
    learning_curves([(method, run)], path, title=f"{method} on {dataset}")


def draw_rho(path: Path, summary: Summary) -> None:
    """Draw what merging took up in the run of this directory, if it learned that.

    Raises:
        UserError: the counts are broken; the sentence names file and line.
    """
    if not (path / RHO).exists():
        return
    lines = enumerate(read(path / RHO).splitlines(), start=1)
    records = [parse(path / RHO, line, number) for number, line in lines]
    rounds, counts = ([record[name] for record in records] for name in ("round", "counts"))
    rho_chart(np.array(rounds), np.array(counts), path / RHO_PICTURE, summary)

"""Draws the pictures of a run directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedem_jax.evaluation.records import Summary
from fedem_jax.report.curves import learning_curves
from fedem_jax.report.rho_chart import RhoCounts, rho_chart
from fedem_jax.runs.names import CURVES, RHO, RHO_PICTURE
from fedem_jax.runs.reading import Run, parse_lines
from fedem_jax.storage.files import read


def draw_run(path: Path, run: Run) -> None:
    """Draw the learning curves of a run and, if it learned rho, the distribution of rho."""
    draw_curves(path / CURVES, run)
    draw_rho(path, run.summary)


def draw_curves(path: Path, run: Run) -> None:
    """Draw the learning curves of one run into a file."""
    method, dataset = run.summary["method"], run.summary["dataset"]
    learning_curves([(method, run)], path, title=f"{method} on {dataset}")


def draw_rho(path: Path, summary: Summary) -> None:
    """Draw the distribution of rho in the run of this directory, if the run learned rho.

    Raises:
        UserError: the counts are broken; the message names file and line.
    """
    if found := read_rho(path):
        rho_chart(found, path / RHO_PICTURE, summary)


def read_rho(path: Path) -> RhoCounts | None:
    """The histograms of rho in a run directory; None if the run learned no rho.

    Raises:
        UserError: the counts are broken; the message names file and line.
    """
    if not (path / RHO).exists():
        return None
    records = parse_lines(path / RHO, read(path / RHO).splitlines())
    rounds, counts = ([record[name] for record in records] for name in ("round", "counts"))
    return RhoCounts(np.array(rounds), np.array(counts))

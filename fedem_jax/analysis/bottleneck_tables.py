"""The table and the files of `fedem bottleneck`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from fedem_jax.analysis.bottleneck import STAGES, Bottleneck
from fedem_jax.analysis.bottleneck_charts import draw_drops, draw_stages
from fedem_jax.analysis.bottleneck_figures import Figures, summarised
from fedem_jax.evaluation.metrics import metric_title, metrics_at
from fedem_jax.report.tables import Cell, Row, Shown, Table, in_terminal
from fedem_jax.storage.files import drawing

ROUNDS, CLIENTS, SUMMARY = "rounds.parquet", "clients.parquet", "summary.json"
CURVES, DROPS = "stages.png", "drops.png"
FILES = (SUMMARY, ROUNDS, CLIENTS, CURVES, DROPS)


def save(study: Bottleneck, directory: Path, say: Callable[[str], None] = warnings.warn) -> None:
    """Write both tables, the summary and the pictures.

    Args:
        say: takes a sentence if a picture cannot be drawn.
    """
    directory.mkdir(parents=True, exist_ok=True)
    study.config.save(directory / "config.json")
    study.rounds.to_parquet(directory / ROUNDS)
    study.clients.to_parquet(directory / CLIENTS)
    plain = json.dumps(summarised(study), indent=2, default=lambda value: value._asdict())
    (directory / SUMMARY).write_text(plain + "\n")
    for draw, name in ((draw_stages, CURVES), (draw_drops, DROPS)):
        with drawing(directory / name, say):
            draw(study, directory / name)


def shown(study: Bottleneck) -> Shown:
    """The table for a terminal."""
    summary = summarised(study)
    title = (
        f"The aggregation bottleneck on {study.federation.name} · protocol "
        f"{study.federation.protocol.name} · {study.federation.fingerprint}"
    )
    names = [metric_title(name) for _, name in metrics_at(study.config.top_k, ("test",))]
    header = ["item table", *names, "train\nloss", "distance to\nown optimum"]
    rows = []
    for stage in STAGES:
        figures = [summary["stages"][stage][name] for name in ("hr", "ndcg", "loss", "distance")]
        rows.append(Row([stage, *map(_cell, figures)]))
    slopes = summary["slopes"]["loss"]
    notes = [
        f"{summary['clients_looked_at']:,} clients aggregated in the last third of "
        f"{summary['rounds']} rounds; below each mean its 95 % interval over clients.",
        f"Loss added by replacing: {slopes['heterogeneity']:+.4f} per unit of heterogeneity, "
        f"{slopes['history']:+.4f} per tenfold history.",
        "Distance: over the clients of the last aggregation. Optima: their tables after training "
        f"alone; in its last round the mean loss changed by {100 * study.settled:.1f} %.",
    ]
    return in_terminal(Table(title, header, rows, notes))


def _cell(figures: Figures) -> Cell:
    """A mean, and below it in two lines its interval."""
    return Cell(f"{figures.mean:.4f}", figures.interval().replace(" to ", " to\n"))

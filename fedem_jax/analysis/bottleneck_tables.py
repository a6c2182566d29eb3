"""What `fedem bottleneck` ends with: a table and its files."""

from __future__ import annotations

import json
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedem_jax.analysis.bottleneck import STAGES, Bottleneck
from fedem_jax.analysis.bottleneck_charts import draw_drops, draw_stages
from fedem_jax.analysis.bottleneck_figures import _slope, summarised

ROUNDS, CLIENTS, SUMMARY = "rounds.parquet", "clients.parquet", "summary.json"
CURVES, DROPS = "stages.png", "drops.png"
FILES = (SUMMARY, ROUNDS, CLIENTS, CURVES, DROPS)


def save(found: Bottleneck, directory: Path) -> None:
    """Write both tables, the summary and the pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    found.config.save(directory / "config.json")
    found.rounds.to_parquet(directory / ROUNDS)
    found.clients.to_parquet(directory / CLIENTS)
    plain = json.dumps(summarised(found), indent=2, default=lambda value: value._asdict())
    (directory / SUMMARY).write_text(plain + "\n")
    draw_stages(found, directory / CURVES)
    draw_drops(found, directory / DROPS)


def shown(found: Bottleneck) -> RenderableType:
    """The table for a terminal."""
    figures, k = summarised(found), found.config.top_k
    title = (
        f"The aggregation bottleneck on {found.federation.name} · protocol "
        f"{found.federation.protocol.name} · {found.federation.fingerprint}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("item table")
    for name in (f"HR@{k}", f"NDCG@{k}", "train loss\nnats", "distance to\nown optimum"):
        table.add_column(name, justify="right")
    for stage in STAGES:
        row = figures["stages"][stage]
        table.add_row(stage, *(str(row[name]) for name in ("hr", "ndcg", "loss", "distance")))
    slopes = figures["slopes"]
    steep, long = slopes["loss"]["heterogeneity"], slopes["loss"]["history"]
    notes = (
        f"{figures['clients_looked_at']:,} clients aggregated in the last third of "
        f"{figures['rounds']} rounds; below each mean its 95 % interval over clients.",
        f"Loss added by replacing: {_slope(steep)} per unit of heterogeneity, {_slope(long)} per "
        "tenfold history.",
        "Distance: over the clients aggregated last. Their optima are their own tables after "
        f"rounds alone, settled to {100 * found.settled:.1f} % of the loss a round.",
    )
    return Group(table, *(Text(note, "dim") for note in notes))

"""What a benchmark leaves behind: a section of RESULTS.md, and a picture."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from fedem_jax.report import tables
from fedem_jax.report.style import COLOURS, DASHED, GREY, frame, legend_inside, new_figure, save

HERE = Path(__file__).resolve().parent
CLIENTS, SWEEP, START_UP = "clients", "sweep", "start-up"
GROUPS = {
    "data sets": "Data sets",
    CLIENTS: "Number of clients (synthetic, 500 items, 10 to 100 interactions each)",
    "items": "Number of items (500 synthetic clients, 10 to 200 interactions each)",
    "width": "Width of the embeddings (1,000 synthetic clients, 1,000 items)",
    "block": "Clients side by side (1,000 synthetic clients, 1,000 items)",
    SWEEP: "Trials of a sweep, stacked, against one by itself; 10 rounds each (--quick: 2)",
    START_UP: "Start-up, seconds",
}
HEADING = """# Measurements

Every section is one call of `make bench`. A round is merging, local training, aggregation and
evaluation of all clients, from the second round on: median of warm repetitions. The floor is the
least time of the local epochs that were run, as `floor.py` counts it. Sequential training is timed
on a sample of clients, without its draws, and scaled to all of them by their local steps.

"""
Row = dict[str, Any]
"""What was measured of a case, or why it was not, as `refused`."""
Cells = dict[str, Callable[[Row], str]]


def seconds(name: str) -> Callable[[Row], str]:
    """A column of seconds."""
    return lambda row: f"{row[name]:.3g}"


def size(name: str) -> Callable[[Row], str]:
    """A column of bytes, in megabytes."""
    return lambda row: f"{row[name] / 1e6:,.0f}"


def ratio(above: str, below: str) -> Callable[[Row], str]:
    """A column of quotients."""
    return lambda row: f"{row[above] / row[below]:.3g}"


ROUND: Cells = {
    "round, s": seconds("round"),
    "floor, s": seconds("floor"),
    "round / floor": ratio("round", "floor"),
    "streamed floor, s": seconds("streamed"),
    "local epochs": lambda row: f"{row['epochs']:.1f}",
    "block": lambda row: str(row["block"]),
    "padded / useful": lambda row: f"{row['padding']:.2f}",
    "compile, s": seconds("compile"),
    "planned, MB": size("planned"),
    "peak, MB": size("peak"),
}
PARTS: Cells = {name: seconds(name) for name in ("draws", "train", "aggregate", "evaluate")}
TWIN: Cells = {
    "sequential training, s": seconds("twin"),
    "clients timed": lambda row: str(row["twin clients"]),
    "training, s": seconds("train"),
    "times faster": ratio("twin", "train"),
    "whole round, s": seconds("round"),
    "sequential training / whole round": ratio("twin", "round"),
}
STACKED: Cells = {
    "one simulation, s": seconds("one"),
    "all trials, s": seconds("stacked"),
    "all / one": ratio("stacked", "one"),
    "trials": lambda row: str(row["trials"]),
    "side by side": lambda row: str(row["width"]),
    "compile one, s": seconds("one compile"),
    "compile stack, s": seconds("stacked compile"),
}
START: Cells = {
    "import of JAX": seconds("import jax"),
    "import of the package beyond it": seconds("import"),
    "lower and compile": seconds("compile"),
    "ready for round 1": seconds("ready"),
}


def as_table(rows: list[tuple[str, Row]], cells: Cells) -> str:
    """A Markdown table with a row for each case; a refused one says why."""
    lines = []
    for label, row in rows:
        refused = [row.get("refused", ""), *[""] * (len(cells) - 1)]
        values = refused if "refused" in row else [cell(row) for cell in cells.values()]
        lines.append(tables.Row([label, *values]))
    return tables.in_markdown(tables.Table("", ["", *cells], lines))


def section(results: dict[str, list[tuple[str, Row]]], command: str) -> str:
    """All tables of one call, with what they were measured on."""
    rows = [row for group in results.values() for _, row in group if "machine" in row]
    parts = [f"## {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {commit()}"]
    parts.append(f"`{command}` on {rows[0]['machine'] if rows else 'nothing that ran'}.")
    if rated := [row for row in rows if "rate" in row]:
        bandwidth, rate = (median([row[name] for row in rated]) for name in ("bandwidth", "rate"))
        parts[-1] += (
            f" It copies {bandwidth / 1e9:.3g} GB/s and multiplies {rate / 1e9:,.4g} Gflop/s."
        )
    for group, table in results.items():
        cells = {START_UP: START, SWEEP: STACKED}.get(group, ROUND)
        parts += [f"### {GROUPS[group]}", as_table(table, cells)]
        if any("twin" in row for _, row in table):
            parts += ["Parts of the round, seconds; training includes its draws."]
            parts += [as_table(table, PARTS)]
            parts += ["Against one client after another, one optimiser step per call."]
            parts += [as_table(table, TWIN)]
    return "\n\n".join(parts) + "\n"


def commit() -> str:
    """The commit that is measured, and whether there is more than that."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return f"commit {git('rev-parse', '--short', 'HEAD')}{changed}"
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"


def draw_scaling(rows: list[tuple[str, Row]], path: Path) -> None:
    """Round time against the number of clients, with a line of slope 1."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for label, row in rows:
        if "round" in row:
            curves.setdefault(label.split(", ")[-1], []).append((row["clients"], row["round"]))
    machine = next(row["machine"] for _, row in rows if "round" in row)
    caption = f"500 items, 10 to 100 interactions each; {machine}"
    figure = new_figure((6.4, 4.2), "Seconds per round against clients", caption)
    panel = figure.subplots()
    frame(panel, unit="seconds per round", across="clients", grid="both")
    for (label, points), colour in zip(curves.items(), COLOURS, strict=False):
        panel.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.6, label=label)
    clients, seconds_there = next(iter(curves.values()))[-1]
    ends = [min(c for points in curves.values() for c, _ in points), clients]
    panel.plot(
        ends, [seconds_there * end / clients for end in ends], color=GREY, linewidth=1,
        linestyle=DASHED, label="slope 1", zorder=1,
    )  # fmt: skip
    panel.set(xscale="log", yscale="log")
    legend_inside(panel)
    save(figure, path)

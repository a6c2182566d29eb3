"""What a benchmark on a GPU leaves behind: a section of RESULTS.md."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from bench_tables import as_table, commit, ratio, seconds, size

GOLDEN, AGREEMENT, ROUNDS, KERNELS, CLIENTS, SWEEP, WAITING, WIDTHS, SHAPES = (
    "golden", "agreement", "rounds", "kernels", "clients", "sweep", "waiting", "widths", "shapes"
)  # fmt: skip
Row = dict[str, Any]
"""What was measured of a case, or why it was not, as `refused`."""


def milliseconds(row: Row) -> str:
    """A round, evaluation included."""
    return f"{1e3 * row['seconds'] / row['rounds']:.3g}"


RUN: dict[str, Callable[[Row], str]] = {
    "rounds": lambda row: str(row["rounds"]),
    "all rounds, s": seconds("seconds"),
    "a round, ms": milliseconds,
    "compile, s": seconds("compile"),
    "block": lambda row: str(row["block"]),
    "planned, MB": size("planned"),
    "peak, MB": size("peak"),
}
STACKED: dict[str, Callable[[Row], str]] = {
    "trials": lambda row: str(row["trials"]),
    "side by side": lambda row: str(row["width"]),
    "rounds": lambda row: str(row["rounds"]),
    "one, s": seconds("one"),
    "all, s": seconds("stacked"),
    "all / one": ratio("stacked", "one"),
}
BUSY: dict[str, Callable[[Row], str]] = {
    "device busy, ms a round": lambda row: f"{row['busy']:.3g}",
    "kernels a round": lambda row: f"{row['launched']:.0f}",
    "local training, ms": lambda row: f"{row['training']:.3g}",
    "next in time, ms": lambda row: "; ".join(f"{name[:40]} {ms:.2g}" for name, ms in row["next"]),
}


def agreement(label: str, rows: list[tuple[str, Row]]) -> list[str]:
    """How far the paths are from the first one of a method."""
    first, *others = rows
    if "refused" in first[1]:
        return [f"- {label}, {first[0]}: {first[1]['refused']}"]
    lines = []
    for path, row in others:
        if "refused" in row:
            lines.append(f"- {label}, {path}: {row['refused']}")
            continue
        pairs = list(zip(row["curve"], first[1]["curve"], strict=True))
        gap = max(abs(one[0] / other[0] - 1) for one, other in pairs)
        same = sum(one[1:] == other[1:] for one, other in pairs)
        lines.append(
            f"- {label}, {path} against {first[0]}: losses within {gap:.0e}, metrics equal after "
            f"{same} of {len(pairs)} rounds"
        )
    return lines


def section(results: dict[str, list[tuple[str, str, Row]]], machine: str, command: str) -> str:
    """All tables of one call.

    Args:
        results: by group, the label, path and row of each case.
        machine: device and versions.
        command: what was called.
    """
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}"
    parts = [f"## {now} UTC, on a GPU, {commit()}", f"`{command}` on {machine}."]
    if agreed := results.get(AGREEMENT, []) + results.get(GOLDEN, []):
        parts.append("### Correctness on the device, 5 rounds of the embedded federation")
        lines: list[str] = []
        for label in dict.fromkeys(label for label, _, _ in agreed):
            rows = [(path, row) for name, path, row in agreed if name == label]
            if label == GOLDEN:
                lines += [f"- golden traces, {path}: {row['verdict']}" for path, row in rows]
            else:
                lines += agreement(label, rows)
        parts.append("\n".join(lines))
    titles = {
        ROUNDS: ("FedEM as released, evaluated after every tenth round", RUN),
        CLIENTS: ("Number of clients (synthetic, 500 items, 100 aggregated)", RUN),
        WAITING: ("Where clients wait (50,000 of them, 500 items, 1,000 in a round)", RUN),
        WIDTHS: ("FedEM as released, but with wider embeddings", RUN),
        SWEEP: ("Trials side by side against one by itself", STACKED),
        SHAPES: ("The same with other kernels: numbers at once, warps of a client", STACKED),
        KERNELS: ("Where the time goes: 10 rounds in the profiler, loops run by the host", BUSY),
    }
    for group, (title, cells) in titles.items():
        rows = [(f"{label}, {path}", row) for label, path, row in results.get(group, [])]
        if rows:
            parts += [f"### {title}", as_table(rows, cells).strip()]
    return "\n\n".join(parts) + "\n"

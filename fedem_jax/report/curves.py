"""Learning curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from fedem_jax.evaluation.summary import protocol_label, shared_k
from fedem_jax.report.style import COLOURS, DASHED, DOTTED, GREY, frame
from fedem_jax.runs.reading import Run


def learning_curves(runs: Sequence[tuple[str, Run]], path: str | Path, *, title: str) -> None:
    """Draw HR and NDCG among the candidates, HR among all items, and the train loss over rounds.

    Validation is dashed, test solid; the test value at the best validation round is marked, with
    its bootstrap interval. Below the panels stands what the numbers mean: protocol, fingerprint,
    sizes, seed.

    Args:
        runs: one or more, each with its name in the legend; each has a colour of its own.
        path: PNG or any other format that Matplotlib knows by its ending.
        title: what is shown.
    """
    k = shared_k([run.summary for _, run in runs])
    counts = {run.summary["protocol_switches"]["num_candidates"] for _, run in runs}
    sampled = f"{counts.pop() if len(counts) == 1 else 'sampled'} candidates"
    captions = _captions(runs)
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(9, 6 + 0.17 * len(captions)), dpi=200, layout=layout)
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel("\n".join(captions), x=0.012, ha="left", fontsize=8.5, color=GREY)
    hr, ndcg, hr_full, loss = figure.subplots(2, 2).ravel()

    _metric(hr, runs, "", f"hr@{k}", f"HR@{k}, {sampled}", "share of clients")
    _metric(ndcg, runs, "", f"ndcg@{k}", f"NDCG@{k}, {sampled}", "mean over clients")
    _metric(hr_full, runs, "_full", f"hr@{k}", f"HR@{k}, all items", "share of clients")
    _loss(loss, runs)

    handles = [
        Line2D([], [], color=GREY, linewidth=1.6, label="test"),
        Line2D([], [], color=GREY, linewidth=1, linestyle=DASHED, label="validation"),
        Line2D([], [], color=GREY, marker="o", linestyle="", label="best validation round, 95 %"),
    ]
    figure.legend(
        handles=handles, loc="outside upper right", ncols=len(handles),
        frameon=False, fontsize=9, handlelength=2, columnspacing=1.4,
    )  # fmt: skip
    if len(runs) > 1:
        loss.legend(frameon=False, fontsize=8.5, handlelength=1.5)
    figure.savefig(path)


def _captions(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """One line for all runs if they share what it says, else one line each."""
    lines = {}
    for label, run in runs:
        about = run.summary
        lines[label] = (
            f"protocol {protocol_label(about)} · fingerprint {about['fingerprint']} · "
            f"{about['clients']:,} clients · {about['items']:,} items · seed {about['seed']}"
        )
    if len(set(lines.values())) == 1:
        return list(lines.values())[:1]
    return [f"{label}: {line}" for label, line in lines.items()]


def _metric(
    panel: Axes, runs: Sequence[tuple[str, Run]], ranking: str, metric: str, title: str, unit: str
) -> None:
    """One metric of all runs; `ranking` is the ending of `val` and `test` in records."""
    frame(panel, title, unit)
    for (label, run), colour in _coloured(runs):
        for part, style in (("val", {"linewidth": 1, "linestyle": DASHED}), ("test", {})):
            values = [record[part + ranking][metric] for record in run.records]
            _line(panel, label, run, values, colour, **style)
        headline = run.summary["headline"]
        x, y = headline["round"], headline[f"test{ranking}"][metric]
        interval = headline["interval"][f"test{ranking}"]
        low, high = interval.get(metric, (y, y))  # of the run's own K
        panel.errorbar(
            [x], [y], [[max(y - low, 0)], [max(high - y, 0)]], fmt="o", color=colour,
            markersize=6, markeredgecolor="white", elinewidth=1.4, capsize=3.5, zorder=4,
        )  # fmt: skip
        if len(runs) == 1:
            panel.set_title(f"{y:.4f} at round {x}", loc="right", fontsize=9, color=colour)
    levels = {run.summary["chance"][f"test{ranking}"].get(metric) for _, run in runs} - {None}
    for level in levels:
        panel.axhline(level, color=GREY, linewidth=0.9, linestyle=DOTTED, zorder=1)
    if levels:
        shown = list(dict.fromkeys(f"{level:.4f}" for level in (min(levels), max(levels))))
        panel.annotate(
            "chance\n" + " to\n".join(shown), (1, max(levels)), va="center",
            xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            fontsize=8, color=GREY,
        )  # fmt: skip
    panel.set_ylim(0, min(1.03, 1.12 * panel.dataLim.y1) or 1.0)


def _loss(panel: Axes, runs: Sequence[tuple[str, Run]]) -> None:
    frame(panel, "Train loss", "nats per sample")
    for (label, run), colour in _coloured(runs):
        _line(panel, label, run, [record["loss"] for record in run.records], colour)
    losses = [record["loss"] for _, run in runs for record in run.records]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        panel.set_yscale("log")


def _coloured(runs: Sequence[tuple[str, Run]]):
    return ((run, COLOURS[index % len(COLOURS)]) for index, run in enumerate(runs))


def _line(
    panel: Axes, label: str, run: Run, values: list[float], colour: str, **style: Any
) -> None:
    rounds = [record["round"] for record in run.records]
    few = {"marker": "o", "markersize": 2.5} if len(rounds) <= 20 else {}
    panel.plot(rounds, values, color=colour, **({"linewidth": 1.6, "label": label} | few | style))

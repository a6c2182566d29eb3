"""Draws the learning curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.summary import protocol_label, shared_k
from fedem_jax.report import style
from fedem_jax.report.style import CHANCE, COLOURS, DASHED, GREY
from fedem_jax.runs.reading import Run
from fedem_jax.units import in_span


def learning_curves(runs: Sequence[tuple[str, Run]], path: str | Path, *, title: str) -> None:
    """Draw HR and NDCG among the candidates, HR among all items, and the train loss over rounds.

    Validation is dashed, test solid. A dot marks the test value at the best validation round, with
    its bootstrap interval. The caption names protocol, fingerprint, sizes and seed.

    Args:
        runs: one or more, each with its name in the legend.
        path: PNG or any other format that Matplotlib knows by its ending.
        title: of the figure.
    """
    k = shared_k([run.summary for _, run in runs])
    counts = {run.summary["protocol_switches"]["num_candidates"] for _, run in runs}
    sampled = f"{counts.pop() if len(counts) == 1 else 'sampled'} candidates"
    captions = _captions(runs)
    figure = style.new_figure((9, 6 + 0.17 * len(captions)), title, "\n".join(captions))
    hr, ndcg, hr_full, loss = figure.subplots(2, 2).ravel()

    _metric(hr, runs, "", f"hr@{k}", sampled, "share of clients")
    _metric(ndcg, runs, "", f"ndcg@{k}", sampled, "mean over clients")
    _metric(hr_full, runs, "_full", f"hr@{k}", "all items", "share of clients")
    _loss(loss, runs)

    style.legend_above(figure, [
        style.line_key("test", color=GREY, linewidth=1.6),
        style.line_key("validation", color=GREY, linewidth=1, linestyle=DASHED),
        style.line_key("best validation round, 95 %", color=GREY, marker="o", linestyle=""),
    ])  # fmt: skip
    if len(runs) > 1:
        style.legend_inside(loss, handles=loss.lines)
    style.save(figure, path)


def _captions(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """One caption if it is the same for all runs, else one for each."""
    captions = {}
    for label, run in runs:
        summary = run.summary
        captions[label] = (
            f"protocol {protocol_label(summary)} · fingerprint {summary['fingerprint']} · "
            f"{summary['clients']:,} clients · {summary['items']:,} items · "
            f"seed {summary['seed']}"
        )
    if len(set(captions.values())) == 1:
        return list(captions.values())[:1]
    return [f"{label}: {caption}" for label, caption in captions.items()]


def _metric(
    panel: Axes, runs: Sequence[tuple[str, Run]], ranking: str, metric: str, among: str, unit: str
) -> None:
    """Draw one metric of all runs. `ranking` is "" or "_full", the ending of the record's part."""
    style.frame(panel, f"{metric_title(metric)}, {among}", unit)
    for (label, run), colour in _coloured(runs):
        for part, look in (("val", {"linewidth": 1, "linestyle": DASHED}), ("test", {})):
            values = [record[part + ranking][metric] for record in run.records]
            _curve(panel, label, run, values, colour, **look)
        headline = run.summary["headline"]
        x, y = headline["round"], headline[f"test{ranking}"][metric]
        interval = headline["interval"][f"test{ranking}"]
        low, high = interval.get(metric, (y, y))  # a run has intervals at its own K only
        panel.errorbar(
            [x], [y], [[max(y - low, 0)], [max(high - y, 0)]], fmt="o", color=colour,
            markersize=6, markeredgecolor="white", elinewidth=1.4, capsize=3.5, zorder=4,
        )  # fmt: skip
        if len(runs) == 1:
            panel.set_title(f"{y:.4f} at round {x}", loc="right", fontsize=9, color=colour)
    levels = {run.summary["chance"][f"test{ranking}"].get(metric) for _, run in runs} - {None}
    for level in levels:
        panel.axhline(level, **CHANCE)
    if levels:
        span = in_span(min(levels), max(levels)).replace(" to ", " to\n")
        panel.annotate(
            f"chance\n{span}", (1, max(levels)), va="center",
            xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            fontsize=8, color=GREY,
        )  # fmt: skip
    panel.set_ylim(0, min(1.03, 1.12 * panel.dataLim.y1) or 1.0)


def _loss(panel: Axes, runs: Sequence[tuple[str, Run]]) -> None:
    style.frame(panel, "Train loss", "mean over the clients")
    for (label, run), colour in _coloured(runs):
        _curve(panel, label, run, [record["loss"] for record in run.records], colour)
    losses = [record["loss"] for _, run in runs for record in run.records]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        panel.set_yscale("log")


def _coloured(runs: Sequence[tuple[str, Run]]):
    return ((run, COLOURS[index % len(COLOURS)]) for index, run in enumerate(runs))


def _curve(
    panel: Axes, label: str, run: Run, values: list[float], colour: str, **look: Any
) -> None:
    rounds = [record["round"] for record in run.records]
    few = {"marker": "o", "markersize": 2.5} if len(rounds) <= 20 else {}
    panel.plot(rounds, values, color=colour, **({"linewidth": 1.6, "label": label} | few | look))

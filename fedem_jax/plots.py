"""Pictures of runs. Drawn on figures of their own: nothing of Matplotlib's global state is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedem_jax.record import chance_level, ranking_metrics

# Okabe and Ito's colours: told apart with every common colour blindness, and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6B6B6B"


class Curve(NamedTuple):
    """One run in a picture."""

    label: str
    """Its name in the legend."""
    records: Sequence[dict[str, Any]]
    """Its records, one per evaluated round."""
    best_round: int
    """Best validation round; its test value is marked."""


def learning_curves(
    runs: Sequence[Curve],
    path: str | Path,
    *,
    title: str,
    subtitle: str = "",
    num_candidates: int | None = None,
) -> None:
    """Draw HR@K and NDCG@K (validation dashed, test solid) and the train loss over the rounds.

    Args:
        runs: one or more; each has a colour of its own.
        path: PNG or any other format that Matplotlib knows by its ending.
        title: what is shown.
        subtitle: what the numbers mean (protocol, fingerprint, seed), printed below the panels.
        num_candidates: negatives that a held-out item is ranked against; draws the chance level.
    """
    metrics = ranking_metrics(runs[0].records[0]["test"])
    figure = Figure(figsize=(3.2 * (len(metrics) + 1), 3.7), dpi=200, layout="constrained")
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(subtitle, x=0.012, ha="left", fontsize=8, color=GREY)
    *metric_panels, loss_panel = figure.subplots(1, len(metrics) + 1)

    for panel, metric in zip(metric_panels, metrics, strict=True):
        _frame(
            panel,
            metric.upper(),
            "share of clients" if metric.startswith("hr@") else "mean over clients",
        )
        for run, colour in _coloured(runs):
            _metric(panel, run, metric, colour, annotate=len(runs) == 1)
        if num_candidates is not None:
            level = chance_level(metric, num_candidates)
            panel.axhline(level, color=GREY, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
            panel.annotate(
                f"chance {level:.3f}", (1, level), xycoords=("axes fraction", "data"),
                xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7.5, color=GREY,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
        panel.set_ylim(0, min(1.0, 1.12 * panel.dataLim.y1) or 1.0)

    _frame(loss_panel, "Train loss", "nats")
    for run, colour in _coloured(runs):
        _line(loss_panel, run, [record["loss"] for record in run.records], colour)
    losses = [record["loss"] for run in runs for record in run.records]
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        loss_panel.set_yscale("log")

    handles = [
        Line2D([], [], color=GREY, linewidth=1.6, label="test"),
        Line2D([], [], color=GREY, linewidth=1, linestyle=(0, (4, 1.5)), label="validation"),
        Line2D([], [], color=GREY, linestyle="", marker="o", label="best validation round"),
    ]
    figure.legend(
        handles=handles, loc="outside upper right", ncols=len(handles),
        frameon=False, fontsize=8, handlelength=2, columnspacing=1.4,
    )  # fmt: skip
    if len(runs) > 1:
        loss_panel.legend(frameon=False, fontsize=8, handlelength=1.5)
    figure.savefig(path)


def _coloured(runs: Sequence[Curve]):
    return ((run, COLOURS[index % len(COLOURS)]) for index, run in enumerate(runs))


def _frame(panel: Axes, title: str, unit: str) -> None:
    panel.set_title(title, loc="left", fontsize=9.5)
    panel.set_xlabel("communication round", fontsize=8.5)
    panel.set_ylabel(unit, fontsize=8.5)
    panel.tick_params(labelsize=8, color=GREY)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)


def _line(panel: Axes, run: Curve, values: list[float], colour: str, **style) -> None:
    rounds = [record["round"] for record in run.records]
    few = {"marker": "o", "markersize": 2.5} if len(rounds) <= 20 else {}
    panel.plot(
        rounds, values, color=colour, **({"linewidth": 1.6, "label": run.label} | few | style)
    )


def _metric(panel: Axes, run: Curve, metric: str, colour: str, annotate: bool) -> None:
    validation = [record["val"][metric] for record in run.records]
    test = [record["test"][metric] for record in run.records]
    _line(panel, run, validation, colour, linewidth=1, linestyle=(0, (4, 1.5)), alpha=0.75)
    _line(panel, run, test, colour)
    best = next((r for r in run.records if r["round"] == run.best_round), None)
    if best is None:
        return
    x, y = run.best_round, best["test"][metric]
    panel.plot([x], [y], marker="o", markersize=6, color=colour, markeredgecolor="white", zorder=4)
    if annotate:
        panel.set_title(f"test {y:.3f} at round {x}", loc="right", fontsize=8.5, color=colour)

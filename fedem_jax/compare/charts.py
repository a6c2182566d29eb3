"""The picture of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedem_jax.compare.standings import MethodSummary, Metric
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.report.style import COLOURS, DOTTED, GREY, frame


def standings_chart(
    lines: Sequence[MethodSummary], path: str | Path, *, title: str, caption: str, reference: str,
    chance: Mapping[str, Any],
) -> None:  # fmt: skip
    """Draw the test metrics of a comparison: a row for each method, the best HR on top.

    A small dot is a seed; the large one above it is the mean with the standard deviation, hollow if
    the paired test against `reference` leaves the difference in doubt (corrected p at least 0.05).

    Args:
        lines: those that failed are left out; at least one is not.
        path: PNG or any other format that Matplotlib knows by its ending.
        caption: what the numbers mean; stands below.
        reference: name of the line that the others were tested against; "": none was.
        chance: levels of a random order, by part and metric.
    """
    done = [line for line in lines if not line.failed]
    metrics = list(done[0].scores)
    done.sort(key=lambda line: float(np.mean(line.scores[metrics[0]])))
    figure = Figure(
        figsize=(11, 1.9 + 0.34 * len(done)), dpi=200,
        layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06),
    )  # fmt: skip
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(caption, x=0.012, ha="left", fontsize=8.5, color=GREY)
    panels = figure.subplots(1, len(metrics), sharey=True)
    for panel, (part, name) in zip(panels, metrics, strict=True):
        frame(panel, f"{name.upper()}, {'all items' if part == 'test_full' else 'sampled'}", "")
        panel.set_xlabel("")
        panel.grid(axis="x", color="#E6E6E6", linewidth=0.7)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.axvline(chance[part][name], color=GREY, linewidth=0.9, linestyle=DOTTED, zorder=1)
        for row, line in enumerate(done):
            _seeds(panel, row, line, (part, name), line.name == reference)
        panel.set_xlim(left=0)
        panel.margins(y=0.5 / len(done))
    panels[0].set_yticks(range(len(done)), [line.name for line in done])
    handles = [Line2D([], [], color=GREY, marker=".", linestyle="", label="single seed")]
    handles.append(_mean_key("mean ± sd over seeds", COLOURS[0], hollow=False))
    if reference:
        handles[1].set_label(f"differs from {reference}")
        handles.append(_mean_key("difference in doubt", COLOURS[0], hollow=True))
        handles.append(_mean_key(reference, COLOURS[1], hollow=False))
    handles.append(Line2D([], [], color=GREY, linestyle=DOTTED, label="chance"))
    figure.legend(
        handles=handles, loc="outside upper right", ncols=len(handles),
        frameon=False, fontsize=9, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip
    figure.savefig(path)


def _seeds(panel: Axes, row: int, line: MethodSummary, metric: Metric, is_reference: bool) -> None:
    """One method's values of one metric: every seed, their mean and spread."""
    values, colour = line.scores[metric], COLOURS[1 if is_reference else 0]
    doubt = metric in line.against and line.against[metric].p_holm >= 0.05
    spread = over_seeds(values)
    panel.plot(values, [row - 0.25] * len(values), ".", color=GREY, markersize=3.5)
    panel.errorbar(
        [spread.mean], [row], xerr=[spread.sd if spread.n > 1 else 0], fmt="o", color=colour,
        markersize=6.5, markerfacecolor="white" if doubt else colour, elinewidth=1.4, zorder=2,
    )  # fmt: skip


def _mean_key(label: str, colour: str, *, hollow: bool) -> Line2D:
    inside = "white" if hollow else colour
    return Line2D(
        [], [], color=colour, marker="o", markerfacecolor=inside, linestyle="", label=label
    )

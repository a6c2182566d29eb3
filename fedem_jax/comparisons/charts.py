"""The picture of a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fedem_jax.comparisons.standings import MethodSummary
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.report import style
from fedem_jax.report.style import CHANCE, COLOURS, DOTTED, GREY


def standings_chart(
    summaries: Sequence[MethodSummary], path: str | Path, *, title: str, caption: str,
    reference: str, chance: Mapping[str, Any],
) -> None:  # fmt: skip
    """Draw the test metrics of a comparison: a row for each method, the best HR on top.

    A small dot is a seed. The large dot above is the mean, with the standard deviation as its bar.
    It is hollow if the paired test leaves the difference to `reference` in doubt: corrected p of at
    least 0.05.

    Args:
        summaries: at least one that did not fail; failed ones are left out.
        path: PNG or any other format that Matplotlib knows by its ending.
        title: of the figure.
        caption: what the numbers mean; stands below the panels.
        reference: name of the method that the others were tested against; "": none.
        chance: metrics of a random order, by part and metric.
    """
    done = [summary for summary in summaries if not summary.failed]
    metrics = list(done[0].scores)
    done.sort(key=lambda summary: float(np.mean(summary.scores[metrics[0]])))
    labels = [in_lines(summary.name) for summary in done]
    height = sum(max(0.34, 0.06 + 0.14 * (1 + label.count("\n"))) for label in labels)
    figure = style.new_figure((11, 1.9 + height), title, caption)
    panels = figure.subplots(1, len(metrics), sharey=True)
    for panel, metric in zip(panels, metrics, strict=True):
        part, name = metric
        among = "all items" if part == "test_full" else "sampled"
        style.frame(panel, f"{metric_title(name)}, {among}", across="", grid="both")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.axvline(chance[part][name], **CHANCE)
        for row, summary in enumerate(done):
            values, colour = summary.scores[metric], COLOURS[1 if summary.name == reference else 0]
            doubt = metric in summary.against and summary.against[metric].p_holm >= 0.05
            style.seeds_in_row(panel, row, values, over_seeds(values).sd, colour, hollow=doubt)
        panel.set_xlim(left=0)
        panel.margins(y=0.5 / len(done))
    panels[0].set_yticks(range(len(done)), labels)
    for tick, label in zip(panels[0].get_yticklabels(), labels, strict=True):
        tick.set_fontsize(6.5 if "\n" in label else 8.5)
    keys = [style.line_key("single seed", color=GREY, marker=".", linestyle="")]
    if reference:
        keys.append(style.mean_key(f"differs from {reference}", COLOURS[0]))
        keys.append(style.mean_key("difference in doubt", COLOURS[0], hollow=True))
        keys.append(style.mean_key(reference, COLOURS[1]))
    else:
        keys.append(style.mean_key("mean ± sd over seeds", COLOURS[0]))
    style.legend_above(figure, [*keys, style.line_key("chance", color=GREY, linestyle=DOTTED)])
    style.save(figure, path)


def in_lines(name: str, width: int = 32) -> str:
    """The name of a method with settings of its own, in lines that end after a colon."""
    lines = [""]
    for piece in re.findall(r"[^:]+:?", name):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)

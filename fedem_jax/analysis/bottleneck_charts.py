"""Draws the two pictures of a bottleneck study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedem_jax.analysis.bottleneck import STAGES, Bottleneck
from fedem_jax.analysis.bottleneck_figures import Line, by_client, lines_of, points
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.report.style import COLOURS, GREY, band, frame, legend_inside, new_figure, save


def draw_stages(study: Bottleneck, path: Path) -> None:
    """Draw quality and loss with each table over rounds, and distances to the clients' optima."""
    note = (
        f"of the clients aggregated in a round (fraction {study.config.aggregation_fraction:g}); "
        "bands: 95 % interval of the mean; boxes: quartiles, whiskers 5 % to 95 % of the clients"
    )
    figure = _figure(study, "Before and after aggregation", note, (11, 4.3))
    hr, loss, distance = figure.subplots(1, 3)
    k, rounds = study.config.top_k, study.rounds
    frame(hr, f"{metric_title(f'hr@{k}')}, sampled candidates", "share of clients")
    frame(loss, "train loss before the next round", "mean over the clients")
    for stage, colour in zip(STAGES, COLOURS, strict=False):
        values = pd.DataFrame(
            {"round": rounds["round"], "hr": rounds[f"rank {stage}"] <= k,
             "loss": rounds[f"loss {stage}"]}
        )  # fmt: skip
        for panel, name in ((hr, "hr"), (loss, "loss")):
            by_round = values.groupby("round")[name]
            mean, error = by_round.mean(), 1.96 * by_round.sem()
            panel.plot(mean.index, mean, color=colour, linewidth=1.6, label=stage)
            band(panel, mean.index, mean - error, mean + error, colour)
    hr.set_ylim(bottom=0)
    legend_inside(loss)

    unit = "root mean square over its items"
    frame(distance, "distance to the client's own optimum", unit, "item table")
    known = study.clients.dropna(subset=[f"distance {stage}" for stage in STAGES])
    boxes = distance.boxplot(
        [known[f"distance {stage}"] for stage in STAGES], showfliers=False, widths=0.5,
        patch_artist=True, medianprops={"color": "black"}, whis=(5, 95),
    )  # fmt: skip
    for patch, colour in zip(boxes["boxes"], COLOURS, strict=False):
        patch.set(facecolor=colour, alpha=0.4)
    distance.set_xticks(range(1, len(STAGES) + 1), STAGES)
    distance.set_ylim(bottom=0)
    save(figure, path)


def draw_drops(study: Bottleneck, path: Path) -> None:
    """Draw what replacing costs each client, against its heterogeneity and its history."""
    clients = by_client(study)
    lines, k = lines_of(clients), study.config.top_k
    note = (
        "a dot is a client, its mean over the last third of the rounds in which it was aggregated; "
        "line: least squares, band: 95 %"
    )
    title = "What a client loses when the aggregated table takes the place of its own"
    figure = _figure(study, title, note, (9, 7))
    grid = figure.subplots(2, 2, sharex="col")
    rows = {"loss": "added train loss", "ndcg": f"lost {metric_title(f'ndcg@{k}')}"}
    columns = {
        "heterogeneity": "heterogeneity: distance of its optimum from the others'",
        "history": "training items of the client",
    }
    for panels, (drop, unit) in zip(grid, rows.items(), strict=True):
        for panel, (cause, label) in zip(panels, columns.items(), strict=True):
            line = lines[drop, cause]
            _drop(panel, *points(clients, drop, cause), line)
            per = "unit" if cause == "heterogeneity" else "tenfold"
            title = f"slope {line.slope:+.4f} per {per}"
            frame(panel, title, unit, label if drop == "ndcg" else "")
            if cause == "history":
                ticks = [each for each in (1, 3, 10, 30, 100, 300, 1000, 3000)
                         if line.x[0] - 0.1 <= np.log10(each) <= line.x[-1] + 0.1]  # fmt: skip
                panel.set_xticks(np.log10(ticks), [str(each) for each in ticks])
    save(figure, path)


def _drop(panel: Axes, x: np.ndarray, y: np.ndarray, line: Line) -> None:
    panel.axhline(0, color=GREY, linewidth=0.9)
    panel.plot(x, y, ".", color=COLOURS[0], markersize=5, alpha=0.4, markeredgewidth=0)
    band(panel, line.x, line.low, line.high, COLOURS[1], 0.3)
    panel.plot(line.x, line.y, color=COLOURS[1], linewidth=1.6)


def _figure(study: Bottleneck, title: str, note: str, size: tuple[float, float]) -> Figure:
    federation, config = study.federation, study.config
    caption = (
        f"{federation.name} · protocol {federation.protocol.name} · "
        f"fingerprint {federation.fingerprint} · {config.rounds} rounds · seed {config.seed}"
    )
    return new_figure(size, title, f"{caption}\n{note}")

"""The two pictures of a bottleneck study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedem_jax.analysis.bottleneck import STAGES, Bottleneck
from fedem_jax.analysis.bottleneck_figures import Line, _slope, by_client, lines_of, points
from fedem_jax.report.style import COLOURS, GREY, frame


def draw_stages(found: Bottleneck, path: Path) -> None:
    """Quality and loss with each table over rounds, and distances to the clients' optima."""
    note = (
        f"of the clients aggregated in a round (fraction {found.config.aggregation_fraction:g}); "
        "bands: 95 % interval of the mean; boxes: quartiles, whiskers 5 % to 95 % of the clients"
    )
    figure = _figure(found, "Before and after aggregation", note, (11, 4.3))
    hr, loss, distance = figure.subplots(1, 3)
    k, rounds = found.config.top_k, found.rounds
    frame(hr, f"HR@{k}, sampled candidates", "share of clients")
    frame(loss, "train loss before the next round", "nats per sample")
    for stage, colour in zip(STAGES, COLOURS, strict=False):
        values = pd.DataFrame(
            {"round": rounds["round"], "hr": rounds[f"rank {stage}"] <= k,
             "loss": rounds[f"loss {stage}"]}
        )  # fmt: skip
        for panel, name in ((hr, "hr"), (loss, "loss")):
            by_round = values.groupby("round")[name]
            mean, error = by_round.mean(), 1.96 * by_round.sem()
            panel.plot(mean.index, mean, color=colour, linewidth=1.6, label=stage)
            panel.fill_between(
                mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0
            )
    hr.set_ylim(bottom=0)
    loss.legend(frameon=False, fontsize=8.5, handlelength=1.5)

    frame(distance, "distance to the client's own optimum", "root mean square over its items")
    distance.set_xlabel("item table", fontsize=9)
    known = found.clients.dropna(subset=[f"distance {stage}" for stage in STAGES])
    boxes = distance.boxplot(
        [known[f"distance {stage}"] for stage in STAGES], showfliers=False, widths=0.5,
        patch_artist=True, medianprops={"color": "black"}, whis=(5, 95),
    )  # fmt: skip
    for patch, colour in zip(boxes["boxes"], COLOURS, strict=False):
        patch.set(facecolor=colour, alpha=0.4)
    distance.set_xticks(range(1, len(STAGES) + 1), STAGES)
    distance.set_ylim(bottom=0)
    figure.savefig(path)


def draw_drops(found: Bottleneck, path: Path) -> None:
    """What replacing costs each client, against its heterogeneity and its history."""
    clients = by_client(found)
    lines, k = lines_of(clients), found.config.top_k
    note = (
        "a dot is a client, its mean over the last third of the rounds in which it was aggregated; "
        "line: least squares, band: 95 %"
    )
    title = "What a client loses when the aggregated table takes the place of its own"
    figure = _figure(found, title, note, (9, 7))
    grid = figure.subplots(2, 2, sharex="col")
    rows = {"loss": "added train loss, nats", "ndcg": f"lost NDCG@{k}"}
    columns = {
        "heterogeneity": "heterogeneity: distance of its optimum from the others'",
        "history": "training items of the client",
    }
    for panels, (drop, unit) in zip(grid, rows.items(), strict=True):
        for panel, (cause, label) in zip(panels, columns.items(), strict=True):
            line = lines[drop, cause]
            _drop(panel, *points(clients, drop, cause), line)
            frame(panel, "", unit)
            panel.set_xlabel(label if drop == "ndcg" else "", fontsize=9)
            per = "unit" if cause == "heterogeneity" else "tenfold"
            panel.set_title(f"slope {_slope(line.slope)} per {per}", loc="left", fontsize=9)
            if cause == "history":
                ticks = [each for each in (1, 3, 10, 30, 100, 300, 1000, 3000)
                         if line.x[0] - 0.1 <= np.log10(each) <= line.x[-1] + 0.1]  # fmt: skip
                panel.set_xticks(np.log10(ticks), [str(each) for each in ticks])
    figure.savefig(path)


def _drop(panel: Axes, x: np.ndarray, y: np.ndarray, line: Line) -> None:
    panel.axhline(0, color=GREY, linewidth=0.9)
    panel.plot(x, y, ".", color=COLOURS[0], markersize=5, alpha=0.4, markeredgewidth=0)
    panel.fill_between(line.x, line.low, line.high, color=COLOURS[1], alpha=0.3, linewidth=0)
    panel.plot(line.x, line.y, color=COLOURS[1], linewidth=1.6)


def _figure(found: Bottleneck, title: str, note: str, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, dpi=200, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    about, config = found.federation, found.config
    figure.supxlabel(
        f"{about.name} · protocol {about.protocol.name} · fingerprint {about.fingerprint} · "
        f"{config.rounds} rounds · seed {config.seed}\n{note}",
        x=0.012, ha="left", fontsize=8.5, color=GREY,
    )  # fmt: skip
    return figure

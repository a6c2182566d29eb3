"""What `fedem bottleneck` ends with: a table, its files, two pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedem_jax.bottleneck import STAGES, Bottleneck
from fedem_jax.metrics import hit_rate, ndcg
from fedem_jax.plots import COLOURS, GREY, frame
from fedem_jax.uncertainty import bootstrap_interval

ROUNDS, CLIENTS, SUMMARY = "rounds.parquet", "clients.parquet", "summary.json"
CURVES, DROPS = "stages.png", "drops.png"
FILES = (SUMMARY, ROUNDS, CLIENTS, CURVES, DROPS)
RESAMPLES = 2000


class Figures(NamedTuple):
    """Mean over clients, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}\n{self.low:.4f} to {self.high:.4f}"


class Line(NamedTuple):
    """Least squares over the clients."""

    slope: Figures
    x: np.ndarray
    """Where the line is drawn."""
    y: np.ndarray
    low: np.ndarray
    """95 % bootstrap band over clients."""
    high: np.ndarray
    clients: int


def late(found: Bottleneck) -> pd.DataFrame:
    """The last third of the rounds."""
    return found.rounds[found.rounds["round"] > found.config.rounds * 2 // 3]


def by_client(found: Bottleneck) -> pd.DataFrame:
    """A row for each client that was aggregated in the last third of the rounds: what it is, and
    its mean loss and quality with each table over those rounds."""
    rounds, k = late(found), found.config.top_k
    columns = {"client": rounds["client"]}
    for stage in STAGES:
        rank = rounds[f"rank {stage}"].to_numpy()
        columns[f"hr {stage}"] = hit_rate(rank, k)
        columns[f"ndcg {stage}"] = ndcg(rank, k)
        columns[f"loss {stage}"] = rounds[f"loss {stage}"]
    means = pd.DataFrame(columns).groupby("client").mean()
    return found.clients.join(means, how="inner")


def summarised(found: Bottleneck) -> dict[str, Any]:
    """All figures of the table, by stage, and the slopes of the drops."""
    clients = by_client(found)
    stages = {
        stage: {name: _figures(clients[f"{name} {stage}"]) for name in ("hr", "ndcg", "loss")}
        | {"distance": _figures(found.clients[f"distance {stage}"].dropna())}
        for stage in STAGES
    }
    slopes = {drop: {} for drop in ("loss", "ndcg")}
    for (drop, cause), line in lines_of(clients).items():
        slopes[drop][cause] = line.slope
    about = {
        "dataset": found.federation.name,
        "protocol": found.federation.protocol.name,
        "fingerprint": found.federation.fingerprint,
        "rounds": found.config.rounds,
        "seed": found.config.seed,
        "aggregation_fraction": found.config.aggregation_fraction,
        "clients_looked_at": len(clients),
        "optimum_settled_to": found.settled,
    }
    return about | {"stages": stages, "slopes": slopes}


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


def lines_of(clients: pd.DataFrame) -> dict[tuple[str, str], Line]:
    """Least-squares lines of what replacing costs a client, in loss and in NDCG, against its
    heterogeneity and against the logarithm of its history."""
    found = {}
    for drop in ("loss", "ndcg"):
        for cause in ("heterogeneity", "history"):
            x, y = points(clients, drop, cause)
            found[drop, cause] = fitted(x, y)
    return found


def points(clients: pd.DataFrame, drop: str, cause: str) -> tuple[np.ndarray, np.ndarray]:
    """What replacing costs each client (more loss, less NDCG), over its cause."""
    sign = 1 if drop == "loss" else -1
    cost = sign * (clients[f"{drop} replaced"] - clients[f"{drop} local"])
    of = clients[cause] if cause == "heterogeneity" else np.log10(clients[cause].clip(lower=1))
    sound = np.isfinite(of) & np.isfinite(cost)
    return of[sound].to_numpy(), cost[sound].to_numpy()


def fitted(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Line:
    """Least squares, with a band from drawing clients with replacement."""
    at = np.linspace(x.min(), x.max(), 50)
    if len(x) < 3 or np.ptp(x) == 0:
        none = np.full(len(at), np.nan)
        return Line(Figures(np.nan, np.nan, np.nan), at, none, none, none, len(x))
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(x), size=(RESAMPLES, len(x)))
    slopes, heights = _least_squares(x[draws], y[draws])
    slope, height = _least_squares(x[None], y[None])
    band = np.quantile(heights[:, None] + slopes[:, None] * at, [0.025, 0.975], axis=0)
    low, high = np.quantile(slopes, [0.025, 0.975])
    line, figures = height[0] + slope[0] * at, Figures(float(slope[0]), float(low), float(high))
    return Line(figures, at, line, band[0], band[1], len(x))


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of each row."""
    apart = x - x.mean(axis=1, keepdims=True)
    spread = np.maximum((apart**2).sum(axis=1), np.finfo(float).tiny)
    slope = (apart * y).sum(axis=1) / spread
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)


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


def _slope(slope: Figures) -> str:
    return f"{slope.mean:+.4f} ({slope.low:+.4f} to {slope.high:+.4f})"


def _figures(values: pd.Series) -> Figures:
    low, high = bootstrap_interval(values.to_numpy())
    return Figures(float(values.mean()), float(low), float(high))

"""Pictures of a sweep: main effects of the varied settings, and all settings side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.report.style import COLOURS, GREY, frame, legend_above, line_key, new_figure, save
from fedem_jax.sweeps.space import Values, as_text
from fedem_jax.sweeps.sweep_result import SweepResult
from fedem_jax.units import counted

BINS = 6
"""Groups of equally many trials, for means over values that were drawn from a range."""
PER_ROW = 3
"""Panels side by side."""

TRIAL: dict[str, Any] = {
    "marker": "o", "color": GREY, "markersize": 3.5, "linestyle": "", "markeredgewidth": 0,
}  # fmt: skip
STOPPED = TRIAL | {"markerfacecolor": "white", "markeredgewidth": 0.6}
MEAN: dict[str, Any] = {"marker": "o", "color": COLOURS[0], "markersize": 5.5, "linewidth": 1.6}
WINNER: dict[str, Any] = {"marker": "D", "color": COLOURS[1], "markersize": 5.5, "linestyle": ""}
LOST: dict[str, Any] = {"marker": "x", "color": COLOURS[6], "markersize": 5, "linestyle": ""}


def effects_chart(result: SweepResult, path: str | Path) -> None:
    """Draw the deciding validation metric against the values of each varied setting.

    Every trial is a dot. A line joins the means of the trials that share a value. The trials of the
    winner are marked. Trials that diverged are crosses at the bottom.
    """
    varied, trials, metric = result.sweep.varied, result.trials, result.sweep.metric
    winner = trials["setting"] == result.settings["setting"].iloc[0]
    ran, early = trials["status"] == "done", trials["status"] == "stopped early"
    lost = trials["status"].str.startswith("diverged")
    columns = min(PER_ROW, len(varied))
    rows = -(-len(varied) // columns)
    figure = _figure(result, (3.6 * columns + 1.2, 3.1 * rows + 1.3), "main effects")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel, values in zip(panels.ravel(), varied, strict=False):
        x = _coordinates(values, trials[values.name])
        panel.plot(x[ran], trials[metric][ran], alpha=0.55, **TRIAL)
        panel.plot(x[early], trials[metric][early], **STOPPED)
        panel.plot(*_means(values, x[ran], trials[metric][ran]), **MEAN)
        panel.plot(x[winner], trials[metric][winner], **WINNER)
        bottom = np.full(int(lost.sum()), 0.02)
        panel.plot(x[lost], bottom, transform=panel.get_xaxis_transform(), **LOST)
        _axis(panel, values)
    for panel in panels.ravel()[len(varied) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel(_label(metric))
    keys = [
        line_key(label, **style)
        for label, style, present in (
            ("trial", TRIAL, True),
            ("stopped early", STOPPED, early.any()),
            ("mean", MEAN, True),
            ("best setting", WINNER, True),
            ("diverged", LOST, lost.any()),
        )
        if present
    ]
    legend_above(figure, keys)
    save(figure, path)


def settings_chart(result: SweepResult, path: str | Path) -> None:
    """Draw every setting as a line in parallel coordinates.

    Each varied setting has a vertical axis; the last axis is the mean validation metric. Darker
    lines are better, and the winner is thick. Settings that diverged are left out.
    """
    varied, metric = result.sweep.varied, result.sweep.metric
    ranked = result.settings[result.settings["status"].isin(["done", "stopped early"])][::-1]
    value = ranked[metric].to_numpy(np.float64)
    figure = _figure(result, (1.7 * (len(varied) + 1) + 2.2, 4.6), "settings")
    panel = figure.subplots()
    columns = [_coordinates(values, ranked[values.name]).to_numpy() for values in varied]
    heights = [_to_unit(values, x) for values, x in zip(varied, columns, strict=True)]
    low, high = float(value.min()), float(value.max())
    span = (high - low) or 1.0
    heights.append((value - low) / span)
    colours = colormaps["cividis_r"](0.05 + 0.9 * heights[-1])
    lines, axes = np.stack(heights, axis=1), np.arange(len(varied) + 1)
    shift = np.linspace(-0.015, 0, len(lines))[:, None] * (axes < len(varied))[None, :]
    for line, colour in zip(lines + shift, colours, strict=True):
        panel.plot(axes, line, color=colour, linewidth=1, zorder=2)
    panel.plot(axes, lines[-1], color=COLOURS[1], linewidth=2.4, zorder=3)
    panel.set_xlim(-0.35, len(varied) + 0.5)
    panel.set_ylim(-0.06, 1.06)
    panel.yaxis.set_major_locator(NullLocator())
    labels = [_name(values) for values in varied]
    panel.set_xticks(axes, [*labels, _label(metric)], fontsize=9)
    panel.tick_params(axis="x", length=0, pad=8)
    panel.spines[:].set_visible(False)
    for axis, values in enumerate(varied):
        _vertical(panel, axis, _marks(values))
    _vertical(panel, len(varied), [(f"{low + span * h:.4f}", h) for h in (0, 0.25, 0.5, 0.75, 1)])
    legend_above(figure, [
        line_key("best setting", color=COLOURS[1], linewidth=2.4),
        line_key("good", color=colormaps["cividis_r"](0.95)),
        line_key("bad", color=colormaps["cividis_r"](0.05)),
    ])  # fmt: skip
    save(figure, path)


def _figure(result: SweepResult, size: tuple[float, float], subject: str) -> Figure:
    sweep, summary = result.sweep, result.about
    caption = (
        f"protocol {summary['protocol']} · {len(result.settings)} settings x "
        f"{counted(len(sweep.seeds), 'seed')} · {sweep.config.rounds} rounds, each trial at its "
        f"best validation round · sweep {summary['fingerprint']}"
    )
    title = f"{sweep.config.method} on {summary['dataset']}: {subject}"
    return new_figure((max(size[0], 7.6), size[1]), title, caption)


def _coordinates(values: Values, column: pd.Series) -> pd.Series:
    """Values as coordinates of their axis: numbers as they are, others by their listed order."""
    if _numeric(values):
        return column.astype(float)
    return column.map(list(values.listed).index).astype(float)


def _means(values: Values, x: pd.Series, y: pd.Series) -> Sequence[Any]:
    """Mean metric at each listed value; for a range, of groups of equally many trials."""
    if values.listed:
        mean = y.groupby(x).mean()
        return mean.index.to_numpy(), mean.to_numpy()
    if x.empty:
        return [], []
    order = np.argsort(x.to_numpy(), kind="stable")
    groups = np.array_split(order, min(BINS, len(order)))
    middle = np.exp if values.log else np.asarray
    scale = np.log if values.log else np.asarray
    means = [(middle(scale(x.to_numpy()[g]).mean()), y.to_numpy()[g].mean()) for g in groups]
    return tuple(zip(*means, strict=True))


def _axis(panel: Axes, values: Values) -> None:
    frame(panel, across=_name(values), grid="both")
    if values.log:
        panel.set_xscale("log")
    if values.listed:
        at = [float(v) for v in values.listed] if _numeric(values) else range(len(values.listed))
        if len(values.listed) <= 8:
            panel.set_xticks(list(at), list(map(as_text, values.listed)))
            panel.xaxis.set_minor_locator(NullLocator())
        if not _numeric(values):
            panel.margins(x=0.15)
    elif not values.log:
        panel.xaxis.set_major_locator(MaxNLocator(5))


def _marks(values: Values) -> list[tuple[str, float]]:
    """Labels of an axis with their heights in [0, 1]."""
    if values.listed:
        shown: Sequence[Any] = values.listed
        if len(shown) > 8 and _numeric(values):
            shown = shown[:: math.ceil(len(shown) / 8)]
        at = _coordinates(values, pd.Series(list(shown), dtype=object)).to_numpy()
        return list(zip(map(as_text, shown), _to_unit(values, at), strict=True))
    spaced = np.geomspace if values.log else np.linspace
    at = spaced(values.low, values.high, 5)
    return list(zip((f"{each:.3g}" for each in at), _to_unit(values, at), strict=True))


def _to_unit(values: Values, x: np.ndarray) -> np.ndarray:
    """Coordinates of an axis as heights from 0 to 1."""
    if not values.listed:
        low, high = values.low, values.high
    elif _numeric(values):
        low, high = float(min(values.listed)), float(max(values.listed))
    else:
        low, high = 0.0, float(len(values.listed) - 1)
    scale = np.log if values.log else np.asarray
    if high == low:
        return np.full(len(x), 0.5)
    return (scale(x) - scale(low)) / (scale(high) - scale(low))


def _vertical(panel: Axes, x: int, marks: Sequence[tuple[str, float]]) -> None:
    """Draw a vertical axis with its marks."""
    panel.axvline(x, 0.05, 0.95, color=GREY, linewidth=0.9, zorder=1)
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    for label, height in marks:
        panel.annotate(
            label, (x, height), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8, color=GREY, zorder=4, bbox=box,
        )  # fmt: skip


def _numeric(values: Values) -> bool:
    return not values.listed or all(isinstance(value, int | float) for value in values.listed)


def _name(values: Values) -> str:
    return values.name + (", log" if values.log else "")


def _label(metric: str) -> str:
    part, name = metric.split(" ")
    return f"{metric_title(name)} on validation, {'all items' if part == 'val_full' else 'sampled'}"

"""Draws the pictures of `experiments/theory.md`.

Lines are closed forms. Points are simulations, with bars of two standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from closed_forms import (
    Evidence,
    best_error,
    best_held_share,
    clipped_error,
    equal_clients,
    learned_error,
    learned_rho,
)
from comparisons import (
    ALIKE_FITS,
    COUNT,
    FEW,
    HELD,
    HELD_OUT,
    HELD_WIDTHS,
    KINDS,
    SEEN,
    SEEN_FITS,
    SEEN_TAU2,
    SIZES,
    SLICES,
    SPREADS,
    TOTAL,
    WIDTH,
    WIDTHS,
    Compared,
    Fitted,
    Point,
    Unequal,
    all_forms,
)
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fedem_jax.report import style
from fedem_jax.report.style import COLOURS, DASHED, DOTTED, GREY

ERRORS = "slices.png"
FITS = "fits.png"
UNEQUAL = "unequal.png"
AXES = {
    "tau2": "heterogeneity τ², units² per coordinate",
    "sigma": "noise σ of a sample, units",
    "samples": "samples n of a client",
    "clients": "clients N",
}
PER_COORDINATE = "squared error, units² per coordinate"


def draw_slices(results: dict[str, Compared], path: Path) -> None:
    """Draw the five errors over each number of the base point; the others are fixed."""
    base = Point()
    figure = style.new_figure(
        (9, 7), "Error of an estimate: lines are closed forms, points are simulated",
        f"Where they do not vary: τ² = 1/8, σ = {base.sigma:g}, n = {base.samples}, "
        f"N = {base.clients}. Rho is shared by J = {WIDTH} coordinates; held out: 4 more samples. "
        "Bars: two standard errors.",
    )  # fmt: skip
    panels = figure.subplots(2, 2).ravel()
    for panel, (name, compared) in zip(panels, results.items(), strict=True):
        values = np.array(SLICES[name], float)
        across = np.geomspace(values[0], values[-1], 200)
        point = Point()._replace(**{name: across})
        client = equal_clients(
            point.samples, point.clients, np.sqrt(np.asarray(point.tau2)), point.sigma
        )
        forms = all_forms(client, point.sigma, point.samples)
        _axes(panel, AXES[name], PER_COORDINATE, values)
        panel.set(xscale="log", yscale="log")
        for kind, form, mean, error, colour in zip(
            KINDS, forms, *compared.simulated, COLOURS, strict=False
        ):
            training = kind == KINDS[-1]
            panel.plot(
                across, np.broadcast_to(form, across.shape), color=colour, label=kind,
                linestyle=DOTTED if training else "-", linewidth=2.6 if training else 1.4,
            )  # fmt: skip
            _points(panel, values, mean, error, colour, hollow=training)
        _ticks(panel, values)
    style.legend_inside(panels[0])
    style.save(figure, path)


def draw_fits(results: Fitted, path: Path) -> None:
    """Draw the effects on a learned rho: seen samples, few coordinates, held-out samples."""
    figure = style.new_figure(
        (9, 7), "Learning rho: lines are closed forms, points are simulated",
        f"σ = 1, N = {Point().clients} clients, bars: two standard errors. Above: n = m = {COUNT}, "
        f"J = {WIDTH}. Below left: n = {COUNT}, m = {FEW}, τ = 0. Below right: n + m = {TOTAL}, "
        "τ² = 1/8.",
    )  # fmt: skip
    panels = figure.subplots(2, 2).ravel()
    _seen(panels[0], panels[1], results)
    _widths(panels[2], results)
    _held(panels[3], results)
    style.save(figure, path)


def _seen(rho: Axes, error: Axes, results: Fitted) -> None:
    shares = np.array(SEEN) / COUNT
    across = np.linspace(0, 1, 100)
    seen = "share of the fitting samples used in training"
    _axes(rho, seen, "mean of the learned rho", shares, "Rho goes to 0 as training sees more")
    _axes(error, seen, PER_COORDINATE, shares, "and the error to that of the local estimate")
    for row, tau2 in enumerate(SEEN_TAU2):
        client = equal_clients(COUNT, Point().clients, np.sqrt(tau2), 1.0)
        evidence, colour = Evidence(1 / COUNT, across), COLOURS[row]
        part = slice(row * len(SEEN), (row + 1) * len(SEEN))
        label = f"τ² = {tau2 * COUNT:g} s"
        rho.plot(across, learned_rho(client, evidence, WIDTH)[0], color=colour, label=label)
        error.plot(across, learned_error(client, evidence, WIDTH), color=colour)
        error.axhline(float(best_error(client)), color=colour, linewidth=1, linestyle=DASHED)
        for panel, compared in ((rho, results.rho), (error, results.learned)):
            mean, wide = (values[part] for values in compared.simulated)
            _points(panel, shares, mean, wide, colour)
    error.axhline(1 / COUNT, color=GREY, linewidth=1, linestyle=DOTTED)
    error.annotate("local, s", (0, 1 / COUNT), (0, 3), textcoords="offset points", fontsize=8.5)
    error.plot([], [], color=GREY, linestyle=DASHED, linewidth=1, label="at rho*")
    for panel in (rho, error):
        panel.set_ylim(bottom=0)
        style.legend_inside(panel)


def _widths(panel: Axes, results: Fitted) -> None:
    widths = np.geomspace(WIDTHS[0], WIDTHS[-1], 60)
    client = equal_clients(COUNT, Point().clients, 0.0, 1.0)
    evidence = Evidence(1 / FEW, 0.0)
    part = slice(len(SEEN_FITS), len(SEEN_FITS) + len(ALIKE_FITS))
    across = "coordinates J that share the rho"
    _axes(panel, across, PER_COORDINATE, WIDTHS, "Few coordinates, rho* = 1")
    lines = (
        ("not cut", results.learned, learned_error(client, evidence, widths)),
        ("cut to [0, 1]", results.clipped, clipped_error(client, evidence, widths)),
    )
    for (label, compared, form), colour in zip(lines, COLOURS, strict=False):
        panel.plot(widths, np.asarray(form), color=colour, label=label)
        mean, wide = (values[part] for values in compared.simulated)
        _points(panel, WIDTHS, mean, wide, colour)
    delta = clipped_error(client, evidence, widths, exact=False)
    dashed = {"color": COLOURS[1], "linestyle": DASHED, "linewidth": 1}
    panel.plot(widths, delta, **dashed, label="its delta method")
    best = float(best_error(client))
    panel.axhline(best, color=GREY, linestyle=DOTTED, linewidth=1, label="at rho*")
    panel.set(xscale="log", yscale="log")
    _ticks(panel, WIDTHS)
    panel.yaxis.set_minor_formatter(NullFormatter())
    style.legend_inside(panel)


def _held(panel: Axes, results: Fitted) -> None:
    held = np.linspace(0.8, 26, 200)
    base, start = Point(), len(SEEN_FITS) + len(ALIKE_FITS)
    _axes(panel, "samples m held out", PER_COORDINATE, HELD_OUT, f"Of {TOTAL} samples, m held out")
    whole = equal_clients(TOTAL, base.clients, np.sqrt(base.tau2), 1.0)
    for row, width in enumerate(HELD_WIDTHS):
        colour = COLOURS[row]
        client = equal_clients(TOTAL - held, base.clients, np.sqrt(base.tau2), 1.0)
        form = learned_error(client, Evidence(1 / held, 0.0), width)
        panel.plot(held, np.asarray(form), color=colour, label=f"J = {width}")
        share = held / TOTAL
        excess = (1 - whole.share) ** 2 * share + 1 / (share * width)
        approximate = best_error(whole) * (1 - 1 / width) + whole.local * excess
        panel.plot(held, approximate, color=colour, linestyle=DASHED, linewidth=1)
        best = float(TOTAL * best_held_share(whole, width))
        panel.axvline(best, color=colour, linestyle=DOTTED, linewidth=1.2)
        part = slice(start + row * len(HELD_OUT), start + (row + 1) * len(HELD_OUT))
        mean, wide = (values[part] for values in results.learned.simulated)
        _points(panel, HELD_OUT, mean, wide, colour)
    panel.plot([], [], color=GREY, linestyle=DASHED, linewidth=1, label="first order in m")
    panel.plot([], [], color=GREY, linestyle=DOTTED, linewidth=1.2, label="its best m")
    panel.axhline(1 / TOTAL, color=GREY, linewidth=1)
    panel.annotate(
        f"local, all {TOTAL}", (1, 1 / TOTAL), (0, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8.5,
    )  # fmt: skip
    panel.set_ylim(0, 5 / TOTAL)
    style.legend_inside(panel)


def draw_unequal(results: Unequal, path: Path) -> None:
    """Draw the best and the learned rho of clients with 1 to 64 samples, and their errors."""
    figure = style.new_figure(
        (9, 4), "Clients with few and with many samples; weights are sample shares",
        f"σ = 1. Lines: closed forms; points: simulated, two standard errors; full: fitted on "
        f"{HELD} held-out samples; hollow: on 2, one of them seen.",
    )  # fmt: skip
    panels = figure.subplots(1, 2).ravel()
    sizes, rows = np.unique(SIZES), slice(None, None, 2)
    rho, errors = panels
    _axes(rho, AXES["samples"] + ", of 254 in all", "rho", sizes, "Best rho, and the learned ones")
    for place, (tau2, colour) in enumerate(zip(SPREADS, COLOURS, strict=False)):
        rho.plot(sizes, results.best[place, rows], color=colour, label=f"τ² = {_short(tau2)}")
        form = results.rho.form[place, 1, rows]
        rho.plot(sizes, form, color=colour, linestyle=DASHED, linewidth=1)
        for fit in (0, 1):
            mean, wide = (values[place, fit, rows] for values in results.rho.simulated)
            _points(rho, sizes, mean, wide, colour, hollow=fit == 1)
    rho.plot([], [], color=GREY, linestyle=DASHED, linewidth=1, label="half of the samples seen")
    rho.set(xscale="log", ylim=(-0.05, 1.5))
    style.legend_inside(rho, loc="upper right")
    middle = SPREADS.index(1 / 8)
    _axes(errors, AXES["samples"], PER_COORDINATE, sizes, "Errors at τ² = 1/8")
    kinds: Sequence[tuple[str, Compared]] = (
        ("local", results.local),
        ("replaced", results.replaced),
        ("merged, rho* of each", results.merged),
        ("merged, one rho for all", results.shared),
    )
    for (label, compared), colour in zip(kinds, COLOURS, strict=False):
        errors.plot(sizes, compared.form[middle, rows], color=colour, label=label)
        mean, wide = (values[middle, rows] for values in compared.simulated)
        _points(errors, sizes, mean, wide, colour)
    errors.set(xscale="log", yscale="log")
    style.legend_inside(errors)
    for panel in panels:
        _ticks(panel, sizes)
    style.save(figure, path)


def _axes(panel: Axes, across: str, unit: str, ticks: Any, title: str = "") -> None:
    style.frame(panel, title, unit, across)
    panel.xaxis.set_major_locator(NullLocator())
    panel.set_xticks(list(ticks))


def _ticks(panel: Axes, values: Any) -> None:
    """Put ticks at the simulated values, and write all labels as decimals or fractions."""
    panel.set_xticks(list(values))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(value: float) -> str:
    return f"1/{1 / value:g}" if value < 1 and (1 / value).is_integer() else f"{value:g}"


def _points(
    panel: Axes, x: Any, mean: np.ndarray, error: np.ndarray, colour: str, *, hollow: bool = False
) -> None:
    panel.errorbar(
        x, mean, 2 * error, fmt="o", color=colour, markersize=4, elinewidth=1.2, capsize=2,
        markerfacecolor="white" if hollow else colour, zorder=3,
    )  # fmt: skip

"""Common style and parts of all pictures. They never use Matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

# colours of Okabe and Ito, distinct with every common colour blindness and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#5A5A5A"
PALE = "#E6E6E6"
DASHED = (0, (4, 1.5))
DOTTED = (0, (1, 1.5))
TITLE: dict[str, Any] = {"x": 0.012, "ha": "left", "fontsize": 13, "fontweight": "bold"}
CHANCE: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": DOTTED, "zorder": 1}
"""Style of a line at the chance level."""


def new_figure(size: tuple[float, float], title: str, caption: str) -> Figure:
    """An empty figure with its title at the upper left and a caption below.

    Args:
        size: width and height in inches.
    """
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=size, dpi=200, layout=layout)
    figure.suptitle(title, **TITLE)
    figure.supxlabel(caption, x=0.012, ha="left", fontsize=8.5, color=GREY)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture. Text is never parsed as a formula, so `$` is drawn as it is.

    Args:
        path: PNG or any other format that Matplotlib knows by its ending.
    """
    powers = set()  # labels that Matplotlib itself writes as formulas
    for axis in (axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            powers.update(axis.get_majorticklabels())
        if isinstance(axis.get_minor_formatter(), LogFormatter):
            powers.update(axis.get_minorticklabels())
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in powers:
            text.set_parse_math(False)
    try:
        figure.savefig(path)
    except BaseException:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)  # torn
        raise


def frame(
    panel: Axes, title: str = "", unit: str = "", across: str = "communication round",
    *, grid: Literal["x", "y", "both"] = "y",
) -> None:  # fmt: skip
    """Set title, labels and grid of a panel.

    Args:
        panel: the panel.
        title: above the panel, at the left.
        unit: label of the y axis.
        across: label of the x axis.
        grid: axis that has grid lines: x, y or both.
    """
    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel(across, fontsize=9)
    panel.set_ylabel(unit, fontsize=9)
    panel.tick_params(labelsize=8.5, color=GREY)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis=grid, color=PALE, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)


def seeds_in_row(
    panel: Axes, row: float, values: Sequence[float], half: float, colour: str,
    *, hollow: bool = False,
) -> None:  # fmt: skip
    """Draw a dot for each seed, and above the dots their mean with a bar.

    Args:
        panel: the panel.
        row: y coordinate of the mean.
        values: one for each seed.
        half: half the length of the bar; NaN: no bar.
        colour: of mean and bar.
        hollow: whether the mean is a ring.
    """
    panel.plot(values, [row - 0.25] * len(values), ".", color=GREY, markersize=3.5)
    panel.errorbar(
        [np.mean(values)], [row], xerr=[np.nan_to_num(half)], fmt="o", color=colour, markersize=6.5,
        markerfacecolor="white" if hollow else colour, elinewidth=1.4, zorder=2,
    )  # fmt: skip


def band(panel: Axes, x: Any, low: Any, high: Any, colour: str, alpha: float = 0.2) -> None:
    """Fill the area between two curves.

    Args:
        panel: the panel.
        x: of both curves.
        low: lower curve.
        high: upper curve.
        colour: of the area.
        alpha: its opacity.
    """
    panel.fill_between(np.asarray(x), low, high, color=colour, alpha=alpha, linewidth=0)


def mean_key(label: str, colour: str, *, hollow: bool = False) -> Line2D:
    """A large dot for a legend."""
    face = "white" if hollow else colour
    return line_key(label, color=colour, marker="o", markerfacecolor=face, linestyle="")


def line_key(label: str, **look: Any) -> Line2D:
    """A line or dot for a legend."""
    return Line2D([], [], label=label, **look)


def legend_above(figure: Figure, handles: Sequence[Any]) -> Legend:
    """Put a legend at the upper right of a figure, beside its title."""
    figure.suptitle(figure.get_suptitle(), y=0.985, **TITLE)  # a fixed y reserves no row for it
    return figure.legend(
        handles, [handle.get_label() for handle in handles], loc="outside upper right",
        ncols=len(handles), frameon=False, fontsize=9, handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def legend_inside(panel: Axes, **options: Any) -> None:
    """Put a legend into a panel, where there is room."""
    panel.legend(frameon=False, fontsize=8.5, handlelength=1.5, **options)

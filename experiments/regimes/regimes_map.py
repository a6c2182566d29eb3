"""The picture of the map: the winner of each cell, its margin, and the boundary of theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fedem_jax.report.style import (
    COLOURS,
    DASHED,
    GREY,
    frame,
    legend_above,
    line_key,
    new_figure,
    save,
)

COLOUR = {
    "local": COLOURS[3], "replaced": COLOURS[0], "group": COLOURS[4], "merged": COLOURS[2],
}  # fmt: skip
"""Of each arm."""


def draw(found: pd.DataFrame, first: int, seeds: int, path: Path) -> None:
    """Draw one square for each cell.

    Args:
        found: the winners, a row for each cell.
        first: number of cells of the first map; the others make the second one.
        seeds: of each cell.
        path: of the picture.
    """
    maps = [found.iloc[:first], found.iloc[first:]]
    maps = [each for each in maps if len(each)]
    caption = (
        "colour: winner by test HR@10 among all items, paler the closer the second best; numbers: "
        f"its HR@10, and its lead ± se, paired over the clients of {seeds} seeds"
    )
    figure = new_figure((12, 4.8), "When should clients merge?", caption)
    widths = [3.0, 2.4][: len(maps)]
    panels: Any = figure.subplots(1, len(maps), width_ratios=widths, squeeze=False)[0]
    axes = [("heterogeneity", "interactions"), ("groups", "dim")]
    words = {
        "heterogeneity": "share of the item geometry that a group has of its own, h",
        "interactions": "interactions of a client",
        "groups": "groups",
        "dim": "width of the model (true width: 4 a group)",
    }
    titles = ["12 groups, width 8", "h = 0.3, 20 interactions"]
    for panel, cells, (x, y), title in zip(panels, maps, axes, titles, strict=False):
        frame(panel, title, words[y], words[x])
        squares(panel, cells, x, y)
    line = edge(panels[0], maps[0])
    keys = [line_key(arm, color=colour, marker="s", linestyle="", markersize=8)
            for arm, colour in COLOUR.items()]  # fmt: skip
    legend_above(figure, [*keys, *line])
    save(figure, path)


def squares(panel: Axes, cells: pd.DataFrame, x: str, y: str) -> None:
    """A square for each cell, at the ranks of its two coordinates."""
    across, up = (sorted(cells[name].unique()) for name in (x, y))
    for _, cell in cells.iterrows():
        place = across.index(cell[x]), up.index(cell[y])
        sure = np.nan_to_num(cell.margin / cell.error, posinf=9.0) if cell.error else 9.0
        alpha = 0.25 + 0.6 * min(sure, 6) / 6
        corner = (place[0] - 0.5, place[1] - 0.5)
        panel.add_patch(Rectangle(corner, 1, 1, color=COLOUR[cell.winner], alpha=alpha, lw=0))
        text = f"{cell[cell.winner]:.2f}\n+{cell.margin:.3f} ± {cell.error:.3f}"
        panel.text(*place, text, ha="center", va="center", fontsize=8)
    panel.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    panel.set_yticks(range(len(up)), [f"{value:g}" for value in up])
    panel.set_xlim(-0.5, len(across) - 0.5)
    panel.set_ylim(-0.5, len(up) - 0.5)
    panel.grid(False)


def edge(panel: Axes, cells: pd.DataFrame) -> list[Any]:
    """The boundary of theory through the first map, and its key."""
    across = sorted(cells["heterogeneity"].unique())
    at = cells.groupby("interactions")["boundary"].first()
    place = np.interp(at, across, range(len(across)))
    look: dict[str, Any] = {"color": GREY, "linestyle": DASHED, "linewidth": 1.6}
    panel.plot(place, range(len(place)), **look)
    return [line_key("theory: group and all level", **look)]

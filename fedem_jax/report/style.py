"""What all pictures share: colours and frames. Matplotlib's global state is never used."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours: told apart with every common colour blindness, and in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#5A5A5A"
DASHED = (0, (4, 1.5))
DOTTED = (0, (1, 1.5))


def frame(panel: Axes, title: str, unit: str) -> None:
    """Title, labels and grid of a panel over rounds; `unit` is that of its canonical_sign axis."""
    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel("communication round", fontsize=9)
    panel.set_ylabel(unit, fontsize=9)
    panel.tick_params(labelsize=8.5, color=GREY)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)

"""What a Matplotlib figure shows, as numbers and words."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D


class Bar(NamedTuple):
    """A point, or several, with error bars."""

    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    """Lower ends of the bars."""
    high: list[float]
    colour: str
    hollow: bool


def colour_of(line: Line2D) -> str:
    return to_hex(line.get_color())


def curve(line: Line2D) -> tuple[list[float], list[float]]:
    """Numbers of a line: x and y."""
    x, y = (np.asarray(values, float).tolist() for values in line.get_data(orig=False))
    return x, y


def curves(panel: Axes, colour: str, *, dashed: bool | None = None) -> list[Line2D]:
    """Lines of a panel in a colour, without those of error bars; dashed, whole, or either."""
    barred = {id(line) for bar in _containers(panel) for line in (bar[0], *bar[1])}
    return [
        line
        for line in panel.lines
        if id(line) not in barred
        and colour_of(line) == to_hex(colour)
        and dashed in (None, line.is_dashed())
    ]


def level(line: Line2D) -> float:
    """Height of a line from the left edge to the right one."""
    x, y = curve(line)
    assert x == [0, 1]
    assert y[0] == y[1]
    return y[0]


def upright_at(line: Line2D) -> float:
    """Place of a line from the bottom to the top."""
    x, _ = curve(line)
    assert x[0] == x[1]
    return x[0]


def bars(panel: Axes, *, sideways: bool = False) -> list[Bar]:
    """All points with error bars, upright or `sideways`, in the order in which they were drawn."""
    found = []
    for container in _containers(panel):
        marks, _, (stems,) = container.lines
        x, y = curve(marks)
        ends = np.array(stems.get_segments())[:, :, 0 if sideways else 1]
        face = marks.get_markerfacecolor()
        found.append(
            Bar(
                str(container.get_label()), x, y, ends.min(axis=1).tolist(),
                ends.max(axis=1).tolist(), colour_of(marks), to_rgba(face) == to_rgba("white"),
            )
        )  # fmt: skip
    return found


def _containers(panel: Axes) -> list[ErrorbarContainer]:
    return [each for each in panel.containers if isinstance(each, ErrorbarContainer)]


def band(panel: Axes, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, lower and upper edge of a filled band, by the order in which it was drawn."""
    (path,) = panel.collections[number].get_paths()
    corners = path.vertices[:-1]
    places = np.unique(corners[:, 0])
    heights = [corners[corners[:, 0] == place, 1] for place in places]
    low, high = ([pick(each) for each in heights] for pick in (np.min, np.max))
    return places, np.array(low), np.array(high)


def key(legend: Legend | None) -> dict[str, Line2D]:
    """What a legend says of lines, by label."""
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    return dict(zip(labels, legend.get_lines(), strict=True))


def labels(legend: Legend | None) -> list[str]:
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def axes_of(panel: Axes) -> tuple[str, str, str]:
    """Title at the left, label across, label upright."""
    return panel.get_title(loc="left"), panel.get_xlabel(), panel.get_ylabel()


def ticks(axis) -> dict[float, str]:
    """Labels of an axis by their places."""
    names = [text.get_text() for text in axis.get_ticklabels()]
    return dict(zip(axis.get_ticklocs().tolist(), names, strict=True))


def said(figure: Figure) -> tuple[str, str]:
    """Title and caption."""
    return figure.get_suptitle(), figure.get_supxlabel()


def notes(panel: Axes) -> list[str]:
    """Words within a panel."""
    return [text.get_text() for text in panel.texts]

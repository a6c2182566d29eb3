"""Figures with values on hover, as HTML for a page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fedem_jax.pages.page import need_library
from fedem_jax.report.style import COLOURS, GREY

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT, ENTRY = 310, 17
"""Pixels of a figure without a legend, and of a line of its legend on a phone."""
ROUND = "communication round"
LEVEL = "#8A8A8A"
"""Colour of a level such as chance; it can be read on white and on black."""
MOST_MARKS = 8
"""Places on an axis that are all named."""
ON_BOTH = (*COLOURS[:-1], LEVEL)
"""Colours of lines; black would be lost on black."""
BAR = {"displaylogo": False, "responsive": True, "displayModeBar": False}
"""Settings of Plotly: no bar of buttons, and the width follows the page."""


class Line(NamedTuple):
    """Values over rounds or over another axis."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    remarks: Sequence[str] = ()
    """A text for each point, beside its value on hover."""
    listed: bool = True
    """Whether the legend names it."""


class Dot(NamedTuple):
    """A value with its interval."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: str
    listed: bool = True
    """Whether the legend names it."""


class Spread(NamedTuple):
    """Values of a row, one for each seed, and their mean."""

    name: str
    values: Sequence[float]
    mean: float
    sd: float
    """NaN: there is one value."""
    remark: str = ""


def colour_of(place: int) -> str:
    """The colour of the n-th run or method, distinct on white and on black."""
    return ON_BOTH[place % len(ON_BOTH)]


def taken(place: int) -> bool:
    """Whether an earlier run or method has this colour, so that another line is needed."""
    return place // len(ON_BOTH) % 2 == 1


def line_chart(
    title: str, unit: str, lines: Sequence[Line], dots: Sequence[Dot] = (), *,
    levels: Mapping[str, float] | None = None, across: str = ROUND,
    log: Literal["", "x", "y"] = "", marks: Sequence[float] = (),
) -> str:  # fmt: skip
    """Curves, with the values of all of them on hover.

    Args:
        title: of the figure.
        unit: of the values.
        lines: the curves.
        dots: single values with their intervals.
        levels: names and values of horizontal lines.
        across: name of the x axis.
        log: the axis that is logarithmic; "": none.
        marks: places on the x axis that are named; empty: as the library chooses.
    """
    figure = _empty()
    for line in lines:
        few = len(line.x) <= 20 and not line.dashed
        figure.add_scatter(
            x=[*line.x], y=[*line.y], name=escape(line.name), text=[*map(escape, line.remarks)],
            mode="lines+markers" if few else "lines", marker={"size": 5},
            line={"color": line.colour, "width": 2, "dash": "dash" if line.dashed else "solid"},
            hovertemplate="%{y:.4f}" + " %{text}" * bool(line.remarks), showlegend=line.listed,
        )  # fmt: skip
    for dot in dots:
        figure.add_scatter(
            x=[dot.x], y=[dot.y], name=escape(dot.name), mode="markers",
            marker={"size": 10, "color": dot.colour},
            error_y={
                "type": "data", "symmetric": False, "array": [max(dot.high - dot.y, 0)],
                "arrayminus": [max(dot.y - dot.low, 0)], "color": dot.colour,
            },
            hovertemplate=f"%{{y:.4f}}, 95 % {dot.low:.4f} to {dot.high:.4f}",
            showlegend=dot.listed,
        )  # fmt: skip
    places = [place for line in lines for place in line.x]
    for name, value in (levels or {}).items():
        figure.add_scatter(
            x=[min(places), max(*places, min(places) + 1)], y=[value, value],
            name=escape(name), mode="lines",
            line={"color": LEVEL, "width": 1.5, "dash": "dot"}, hovertemplate="%{y:.4f}",
        )  # fmt: skip
    figure.update_layout(hovermode="x unified")
    if log:
        figure.update_layout({f"{log}axis": {"type": "log"}})
    if marks:
        figure.update_xaxes(tickmode="array", tickvals=[*marks])
    if log != "y":
        figure.update_yaxes(rangemode="tozero")
    return _as_html(figure, title, unit, across)


def bar_chart(
    title: str, unit: str, across: str, names: Sequence[str], groups: Mapping[str, Sequence[float]],
    remarks: Sequence[str], form: str = ".4f",
) -> str:  # fmt: skip
    """Bars, side by side in groups.

    Args:
        title: of the figure.
        unit: of the values.
        across: name of the x axis.
        names: of the places on the x axis.
        groups: values for each place, by the name of the bar.
        remarks: a text for each place, on hover.
        form: format of a value.
    """
    figure = _empty()
    for place, (name, values) in enumerate(groups.items()):
        figure.add_bar(
            x=[*map(escape, names)], y=[*values], name=escape(name), marker_color=colour_of(place),
            text=[*map(escape, remarks)], textposition="none",
            hovertemplate=f"%{{x}}: %{{y:{form}}} (%{{text}})",
        )  # fmt: skip
    figure.update_xaxes(type="category")
    return _as_html(figure, title, unit, across, legend=len(groups) > 1)


def row_chart(
    title: str, across: str, rows: Sequence[Spread], levels: Mapping[str, float]
) -> str:  # fmt: skip
    """A row for each method: a small dot for each seed, and the mean with its deviation.

    Args:
        title: of the figure.
        across: name of the x axis.
        rows: the first is on top.
        levels: names and values of vertical lines.
    """
    figure = _empty()
    names = [escape(row.name) for row in rows]
    seeds = [(name, value) for name, row in zip(names, rows, strict=True) for value in row.values]
    figure.add_scatter(
        x=[value for _, value in seeds], y=[name for name, _ in seeds], mode="markers",
        name="single seed",
        marker={"size": 12, "symbol": "line-ns", "line": {"color": LEVEL, "width": 1.5}},
        hovertemplate="%{x:.4f}",
    )  # fmt: skip
    figure.add_scatter(
        x=[row.mean for row in rows], y=names, mode="markers", name="mean ± sd over seeds",
        marker={"size": 10, "color": colour_of(0)},
        error_x={"type": "data", "array": [0 if row.sd != row.sd else row.sd for row in rows]},
        text=[escape(row.remark) for row in rows], hovertemplate="%{y}: %{x:.4f}%{text}",
    )  # fmt: skip
    for name, value in levels.items():
        figure.add_scatter(
            x=[value, value], y=[names[0], names[-1]], name=escape(name), mode="lines",
            line={"color": LEVEL, "width": 1.5, "dash": "dot"}, hovertemplate="%{x:.4f}",
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(rangemode="tozero")
    return _as_html(figure, title, "", across, height=max(HEIGHT, 110 + 28 * len(rows)))


def point_chart(
    title: str, unit: str, across: str, x: Sequence[Any], y: Sequence[float],
    remarks: Sequence[str], *, best: int, log: bool = False, words: bool = False,
) -> str:  # fmt: skip
    """Single points, one of which is the best.

    Args:
        title: of the figure.
        unit: of the values.
        across: name of the x axis.
        x: places on the x axis.
        y: values.
        remarks: a text for each point, on hover.
        best: index of the best point.
        log: whether the x axis is logarithmic.
        words: whether the places are words and not numbers.
    """
    places = [escape(str(each)) for each in x] if words else [*x]
    order = [*(place for place in range(len(y)) if place != best), best]
    figure = _empty()
    figure.add_scatter(
        x=[places[each] for each in order], y=[y[each] for each in order], mode="markers",
        marker={
            "size": [*[8] * (len(y) - 1), 13],
            "color": [*[colour_of(0)] * (len(y) - 1), colour_of(1)],
        },
        text=[escape(remarks[each]) for each in order],
        hovertemplate="%{y:.4f}<br>%{text}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(type="category" if words else "log" if log else "linear")
    if not words and len(set(x)) <= MOST_MARKS:
        figure.update_xaxes(tickmode="array", tickvals=sorted(set(x)))
    return _as_html(figure, title, unit, across, legend=False)


def _empty() -> go.Figure:
    """A figure without anything; the library takes a second to import."""
    need_library()
    import plotly.graph_objects as go

    return go.Figure()


def _as_html(
    figure: go.Figure, title: str, unit: str, across: str, *, legend: bool = True,
    height: int = HEIGHT,
) -> str:  # fmt: skip
    """A figure in the common style, without the library itself."""
    axis = {
        "gridcolor": GREY,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 12}},
    }
    listed = sum(trace.showlegend is not False for trace in figure.data) * legend
    figure.update_layout(
        template="none", height=height + ENTRY * listed,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        title={"text": escape(title), "x": 0.01, "xanchor": "left", "font": {"size": 14}},
        margin={"l": 10, "r": 14, "t": 40, "b": 10}, showlegend=legend,
        legend={"orientation": "h", "y": -0.3, "x": 0, "font": {"size": 11}},
        font={"family": "system-ui, sans-serif", "size": 12}, hoverlabel={"align": "left"},
    )  # fmt: skip
    figure.update_xaxes(**axis, title_text=escape(across))
    figure.update_yaxes(**axis, title_text=escape(unit))
    digest = hashlib.sha256(figure.to_json().encode()).hexdigest()
    name = f"figure-{digest[:16]}"
    return figure.to_html(full_html=False, include_plotlyjs=False, config=BAR, div_id=name)

"""Figures of rho, the weight of the aggregated rows in elastic merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedem_jax.evaluation.rho import quantiles
from fedem_jax.pages.figures import Line, colour_of, line_chart
from fedem_jax.report.rho_chart import ROWS, RhoCounts

UNIT = "rho, median of the rows"
OTHER, OWN = range(len(ROWS))


def rho_charts(runs: Mapping[str, RhoCounts | None]) -> list[str]:
    """How much of the aggregated rows clients merge.

    One run is shown over rounds, by popularity of the item and by activity of the client; the last
    two pool the last third of the rounds. Several runs are shown over rounds only. Rounds after
    which nobody waits to merge are left out.

    Args:
        runs: histograms by the name of the run; None: it learned no rho. Its colour goes by its
            place among all runs.
    """
    known = [
        (colour_of(place), name, found.filled())
        for place, (name, found) in enumerate(runs.items())
        if found is not None and found.counts.any()
    ]
    if not known:
        return []
    if len(runs) > 1:
        lines = [line for colour, name, found in known for line in _of_run(colour, name, found)]
        return [line_chart("rho", UNIT, lines)]
    ((_, _, found),) = known
    late, by_round = found.late().sum(axis=0), found.counts.sum(axis=(1, 2))
    popularity, activity = late.sum(axis=0), late.sum(axis=1)
    return [
        line_chart("rho over rounds", UNIT, _of_rows(found.rounds, by_round)),
        _by_group("popularity of the item", "fifth of the items, most popular last", popularity),
        _by_group("activity of the client", "quarter of the clients, most active last", activity),
    ]


def _by_group(order: str, across: str, counts: np.ndarray) -> str:
    """A figure over groups of items or of clients; counts: [group, own, bin]."""
    places = range(1, len(counts) + 1)
    rows = _of_rows(places, counts)
    return line_chart(f"rho by {order}", UNIT, rows, across=across, marks=places)


def _of_run(colour: str, name: str, found: RhoCounts) -> list[Line]:
    """A solid line for own training items, and a dashed one for the others."""
    counts = found.counts.sum(axis=(1, 2))
    return [
        _line(f"{name}, {ROWS[kind]}", found.rounds, counts[:, kind], colour, kind == OTHER)
        for kind in (OWN, OTHER)
    ]


def _of_rows(x: Sequence[int] | np.ndarray, counts: np.ndarray) -> list[Line]:
    """A line for each kind of row; counts: [x, own, bin]."""
    return [_line(ROWS[kind], x, counts[:, kind], colour_of(kind)) for kind in (OTHER, OWN)]


def _line(
    name: str, x: Sequence[int] | np.ndarray, counts: np.ndarray, colour: str, dashed: bool = False
) -> Line:  # fmt: skip
    """Medians of histograms, with the middle half on hover.

    Args:
        name: of the line.
        x: places; those without a row are left out.
        counts: [x, bin].
        colour: of the line.
        dashed: whether the line is dashed.
    """
    some = counts.any(axis=1)
    low, median, high = quantiles(counts[some], (0.25, 0.5, 0.75)).T
    remarks = [f"(middle half {a:.2f} to {b:.2f})" for a, b in zip(low, high, strict=True)]
    at = np.asarray(x)[some].tolist()
    return Line(name, at, median.tolist(), colour, dashed, remarks)

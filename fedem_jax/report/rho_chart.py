"""Draws the distribution of rho, the weight of the aggregated rows in elastic merging."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedem_jax.evaluation.records import Summary
from fedem_jax.evaluation.rho import BINS, quantiles
from fedem_jax.evaluation.summary import protocol_label
from fedem_jax.report.style import COLOURS, band, frame, legend_inside, new_figure, save

ROWS = ("other items", "own training items")


class RhoCounts(NamedTuple):
    """Histograms of rho over the evaluated rounds of a run."""

    rounds: np.ndarray
    """[R] evaluated rounds."""
    counts: np.ndarray
    """[R, activity, popularity, own, bin], from `fedem_jax.evaluation.rho.counter`."""

    def filled(self) -> RhoCounts:
        """The rounds after which a client waits to merge."""
        some = self.counts.sum(axis=(1, 2, 3, 4)) > 0
        return RhoCounts(self.rounds[some], self.counts[some])

    def late(self) -> np.ndarray:
        """Counts of the last third of the rounds."""
        return self.counts[-max(1, len(self.counts) // 3) :]


def rho_chart(found: RhoCounts, path: str | Path, summary: Summary) -> None:
    """Draw the distribution of rho over rounds, popularity of items and activity of clients.

    The last two pool the last third of the rounds. Lines are medians; bands hold the middle half of
    the rows.

    Args:
        found: histograms of the run; without any, nothing is drawn.
        path: PNG or any other format that Matplotlib knows by its ending.
        summary: of the run.
    """
    found = found.filled()
    (rounds, counts), late = found, found.late()
    if not len(rounds):
        return
    figure = new_figure(
        (9, 6.2), f"What {summary['method']} takes up on {summary['dataset']}",
        f"protocol {protocol_label(summary)} · fingerprint {summary['fingerprint']} · seed "
        f"{summary['seed']} · rows of the clients that wait to merge\nrho: share of the aggregated "
        f"row; lines: medians, bands: middle half; lower panels: the last {len(late)} rounds",
    )  # fmt: skip
    (spread, kinds), (popularity, activity) = figure.subplots(2, 2)
    _heat(figure, spread, rounds, counts.sum(axis=(1, 2, 3)))
    by_round, pooled = counts.sum(axis=(1, 2)), late.sum(axis=0)
    frame(kinds, "rho by kind of row", "rho")
    _groups(kinds, rounds, by_round)
    across = "fifth of the items, most popular last"
    frame(popularity, "rho by popularity of the item", "rho", across)
    _groups(popularity, np.arange(1, pooled.shape[1] + 1), pooled.sum(axis=0))
    across = "quarter of the clients, most active last"
    frame(activity, "rho by activity of the client", "rho", across)
    _groups(activity, np.arange(1, pooled.shape[0] + 1), pooled.sum(axis=1))
    legend_inside(kinds)
    save(figure, path)


def _heat(figure: Figure, panel: Axes, rounds: np.ndarray, counts: np.ndarray) -> None:
    """Draw the share of the rows in each bin, round by round."""
    frame(panel, "distribution of rho", "rho")
    share = counts / counts.sum(axis=1, keepdims=True)
    step = np.median(np.diff(rounds)) if len(rounds) > 1 else 1
    edges = np.concatenate([rounds - step / 2, [rounds[-1] + step / 2]])
    mesh = panel.pcolormesh(edges, np.linspace(0, 1, BINS + 1), share.T, cmap="cividis", vmin=0)
    bar = figure.colorbar(mesh, ax=panel, pad=0.02)
    bar.set_label("share of the rows", fontsize=9)
    bar.ax.tick_params(labelsize=8.5)
    panel.set_ylim(0, 1)


def _groups(panel: Axes, at: np.ndarray, counts: np.ndarray) -> None:
    """Draw median and middle half at each x, for both kinds of rows; counts: [x, kind, bin]."""
    if len(at) <= 5:
        panel.set_xticks(at)
    for kind, colour, of_kind in zip(ROWS, COLOURS, np.moveaxis(counts, 1, 0), strict=False):
        low, median, high = quantiles(of_kind, (0.25, 0.5, 0.75)).T
        few = {"marker": "o", "markersize": 3.5} if len(at) <= 20 else {}
        band(panel, at, low, high, colour)
        panel.plot(at, median, color=colour, linewidth=1.6, label=kind, **few)
    panel.set_ylim(0, 1)

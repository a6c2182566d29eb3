"""The picture of an audit: is Local-only, which knows nothing of unseen items, at chance?"""

from __future__ import annotations

from pathlib import Path

from fedem_jax.analysis.verdict import LEVEL, Audit
from fedem_jax.report.style import CHANCE, COLOURS, GREY, frame, new_figure, save


def levels_chart(audit: Audit, path: str | Path) -> None:
    """Draw HR@K of Local-only with its interval, of chance and of popularity, on both parts.

    Args:
        audit: with its figures.
        path: PNG or any other format that Matplotlib knows by its ending.
    """
    title = f"{audit.dataset}: protocol {audit.protocol.name} {audit.verdict}"
    caption = (
        f"HR@{audit.top_k} among sampled candidates; bar: {LEVEL:.0%} interval over "
        f"{audit.clients:,} clients · {audit.rounds} rounds, seed {audit.seed}"
    )
    figure = new_figure((8, 3.2), title, caption)
    panels = figure.subplots(1, 2, sharex=True)
    for panel, (name, figures) in zip(
        panels, (("validation", audit.val), ("test", audit.test)), strict=True
    ):
        frame(panel, name, across=f"HR@{audit.top_k}", grid="x")
        low, high = figures.interval
        rate, colour = figures.hit_rate, COLOURS[1 if audit.leaks else 0]
        panel.errorbar(
            [rate], [2], xerr=[[rate - low], [high - rate]], fmt="o", color=colour, markersize=7
        )
        panel.plot([figures.popularity], [1], "s", color=GREY, markersize=6)
        panel.axvline(figures.chance, **CHANCE)
        panel.plot([figures.chance], [0], "|", color=GREY, markersize=14)
        panel.set_yticks([2, 1, 0], ["Local-only", "popularity", "chance"])
        panel.set_ylim(-0.6, 2.6)
        panel.set_xlim(0, 1)
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
    save(figure, path)

"""`fedem report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from fedem_jax.cli.options import Report
from fedem_jax.errors import UserError


def report(args: Sequence[str]) -> None:
    """Redraw the learning curves of finished runs and print their closing tables."""
    options = tyro.cli(Report, prog="fedem report", args=args)
    if not options.directories:
        raise UserError("report: names no run directory; give at least one.")

    from fedem_jax.report.alternatives import alternatives_chart, alternatives_table
    from fedem_jax.report.curves import learning_curves
    from fedem_jax.report.pictures import draw_run
    from fedem_jax.report.run_tables import closing, comparison
    from fedem_jax.report.terminal import Terminal
    from fedem_jax.runs.names import ALTERNATIVES_PICTURE
    from fedem_jax.runs.reading import read_alternatives, read_run
    from fedem_jax.storage.files import drawing

    runs = [(str(path), read_run(path)) for path in options.directories]
    console = Terminal()
    for path, run in runs:
        with drawing(Path(path), console.say):
            draw_run(Path(path), run)
        console.print(closing(run.summary))
        if found := read_alternatives(Path(path)):
            with drawing(Path(path), console.say):
                alternatives_chart(found, run.summary, Path(path) / ALTERNATIVES_PICTURE)
            console.print(alternatives_table(found, run.summary))
    if len(runs) > 1:
        console.print(comparison(runs))
    if options.picture:
        with drawing(Path(options.picture), console.say):
            learning_curves(runs, options.picture, title="Learning curves")

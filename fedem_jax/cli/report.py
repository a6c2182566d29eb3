"""`fedem report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedem_jax.cli.options import Report
from fedem_jax.cli.parsing import parse
from fedem_jax.errors import UserError


def report(args: Sequence[str]) -> None:
    """Redraw the learning curves of finished runs and print their closing tables."""
    options = parse(Report, "fedem report", args)
    if not options.directories:
        raise UserError("report: names no run directory; give at least one.")

    if options.html:
        from fedem_jax.pages.page import need_library

        need_library()
    if options.html and any(map(_is_folder_of_runs, options.directories)):
        _write_report(options.directories, Path(options.html))
    else:
        _show(options)


def _is_folder_of_runs(path: Path) -> bool:
    """Whether a folder holds a comparison or a sweep."""
    from fedem_jax.runs.names import CONFIG

    return path.is_dir() and not (path / CONFIG).exists()


def _write_report(directories: Sequence[Path], page: Path) -> None:
    """Write the page of a comparison or of a sweep.

    Raises:
        UserError: there are several, a file is missing or broken, or the page cannot be written.
    """
    from fedem_jax.comparisons.opened import open_comparison
    from fedem_jax.comparisons.tables import NUMBERS
    from fedem_jax.comparisons.tables import write_report as of_comparison
    from fedem_jax.report.terminal import Terminal
    from fedem_jax.sweeps.plans import PLAN
    from fedem_jax.sweeps.sweep_result import open_sweep
    from fedem_jax.sweeps.tables import write_report as of_sweep

    if len(directories) > 1:
        raise UserError("html: a page shows one comparison, one sweep, or runs; give one folder.")
    (directory,) = directories
    if (directory / PLAN).exists():
        of_sweep(open_sweep(directory), page)
    elif (directory / NUMBERS).exists():
        of_comparison(open_comparison(directory), page)
    else:
        raise UserError(f"{directory}: holds no finished run, comparison or sweep; give one.")
    Terminal().say(f"{page} holds the report")


def _show(options: Report) -> None:
    """Draw the pictures of runs, print their tables, and write their page if it is asked for."""
    from fedem_jax.report.alternatives import alternatives_chart, alternatives_table
    from fedem_jax.report.curves import learning_curves
    from fedem_jax.report.pictures import draw_run, read_rho
    from fedem_jax.report.run_tables import closing, comparison
    from fedem_jax.report.tables import in_terminal
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
            console.print(in_terminal(alternatives_table(found, run.summary)))
    if len(runs) > 1:
        console.print(comparison(runs))
    if options.picture:
        with drawing(Path(options.picture), console.say):
            learning_curves(runs, options.picture, title="Learning curves")
    if options.html:
        from fedem_jax.pages.run_page import ShownRun, run_page
        from fedem_jax.runs.names import PER_CLIENT
        from fedem_jax.runs.reading import read_per_client

        names = [Path(path).name for path, _ in runs]
        names = names if len(set(names)) == len(names) else [path for path, _ in runs]
        shown = [
            ShownRun(
                name,
                run,
                read_per_client(Path(path)) if (Path(path) / PER_CLIENT).exists() else None,
                read_alternatives(Path(path)),
                read_rho(Path(path)),
            )
            for name, (path, run) in zip(names, runs, strict=True)
        ]
        run_page(shown, Path(options.html))
        console.say(f"{options.html} holds the report")

"""`fedem compare`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from fedem_jax.cli import process
from fedem_jax.cli.options import Compare
from fedem_jax.errors import Stopped
from fedem_jax.storage.files import check_room

if TYPE_CHECKING:
    from fedem_jax.comparisons.plan import Comparison


def compare(args: Sequence[str]) -> None:
    """Run methods with the same seeds and compare them; resumes where it was stopped."""
    options = tyro.cli(Compare, prog="fedem compare", args=args)

    from fedem_jax.comparisons.plan import plan_comparison

    comparison = plan_comparison(
        options.methods,
        dataset=options.dataset,
        protocol=options.protocol,
        seeds=options.seeds,
        rounds=options.rounds,
        start=options.preset,
        settings=options.settings,
        out=options.out,
        keep=options.keep,
        data_dir=options.data_dir,
    )
    failed = run_missing(comparison)

    from fedem_jax.comparisons.tables import write_up
    from fedem_jax.report.terminal import Terminal

    command = f"fedem compare {shlex.join(args)}".rstrip()
    Terminal().print(write_up(comparison, failed, command, options.reach))


def run_missing(comparison: Comparison) -> dict[str, str]:
    """Run what a comparison still lacks. Returns why runs failed, by name of the contender."""
    from fedem_jax.comparisons.run import kept_bytes, missing, run_all

    missing_runs = missing(comparison)
    if not missing_runs:
        return {}

    from fedem_jax.data.sources import federation_of
    from fedem_jax.report.terminal import Terminal

    console = Terminal()
    federation = federation_of(missing_runs[0].config)
    process.prepare_jax()

    from fedem_jax.cli.signals import Stopping
    from fedem_jax.comparisons.progress import Watch, opening, paces_of

    kept = kept_bytes(missing_runs, federation)
    remedy = "make room, give another --out, or keep none (--keep none)"
    check_room(comparison.directory, kept, "the states to be kept", remedy)
    console.print(opening(comparison, missing_runs, federation, kept))
    watch = Watch(missing_runs, paces_of(comparison, missing_runs), console)
    with watch, Stopping(watch.say) as stop:
        try:
            return run_all(comparison.directory, missing_runs, watch, stop)
        except KeyboardInterrupt as interrupt:
            hint = f"{comparison.directory} keeps what was done; the same command goes on."
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), hint) from None

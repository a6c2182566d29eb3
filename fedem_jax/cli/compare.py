"""`fedem compare`."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedem_jax.cli import process
from fedem_jax.cli.options import Compare
from fedem_jax.cli.parsing import parse
from fedem_jax.errors import Stopped
from fedem_jax.storage.files import check_room

if TYPE_CHECKING:
    from rich.console import Console

    from fedem_jax.comparisons.plan import Comparison


def compare(args: Sequence[str]) -> None:
    """Run methods with the same seeds and compare them; resumes where it was stopped."""
    options = parse(Compare, "fedem compare", args)

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

    from fedem_jax.report.terminal import Terminal

    console = Terminal(stderr=options.json, quiet=options.quiet)
    failed = run_missing(comparison, console)

    from fedem_jax.comparisons.results import gather
    from fedem_jax.comparisons.tables import as_dict, write_up

    methods, out = gather(comparison, failed), comparison.directory
    command = f"fedem compare {shlex.join(args)}".rstrip()
    console.print(write_up(methods, out, command, console.say, options.reach))
    if options.json:
        print(json.dumps(as_dict(methods, out, options.reach), indent=2, allow_nan=False))


def run_missing(comparison: Comparison, console: Console) -> dict[str, str]:
    """Run what a comparison still lacks, and show it on a console.

    Returns:
        Why runs failed, by name of the contender.
    """
    from fedem_jax.comparisons.run import kept_bytes, missing, run_all

    missing_runs = missing(comparison)
    if not missing_runs:
        return {}

    from fedem_jax.data.sources import federation_of

    federation = federation_of(missing_runs[0].config)
    process.prepare_jax()

    from fedem_jax.cli.signals import Stopping
    from fedem_jax.comparisons.progress import Watch, idle_switches, opening, paces_of

    kept = kept_bytes(missing_runs, federation)
    remedy = "make room, give another --out, or keep none (--keep none)"
    check_room(comparison.directory, kept, "the states to be kept", remedy)
    console.print(opening(comparison, missing_runs, federation, kept))
    watch = Watch(missing_runs, paces_of(comparison, missing_runs), console)
    with watch, Stopping(watch.say) as stop:
        for sentence in idle_switches(comparison):
            watch.say(sentence)
        try:
            return run_all(comparison.directory, missing_runs, watch, stop)
        except KeyboardInterrupt as interrupt:
            hint = f"{comparison.directory} keeps what was done; the same command goes on."
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), hint) from None

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

if TYPE_CHECKING:
    from fedem_jax.compare.plan import Comparison


def compare(args: Sequence[str]) -> None:
    """Run methods side by side over several seeds; goes on where it was stopped."""
    wanted = tyro.cli(Compare, prog="fedem compare", args=args)

    from fedem_jax.compare.plan import plan_comparison

    comparison = plan_comparison(
        wanted.methods,
        dataset=wanted.dataset,
        protocol=wanted.protocol,
        seeds=wanted.seeds,
        rounds=wanted.rounds,
        start=wanted.preset,
        settings=wanted.settings,
        out=wanted.out,
        data_dir=wanted.data_dir,
    )
    failed = run_missing(comparison)

    from rich.console import Console

    from fedem_jax.compare.tables import write_up

    command = f"fedem compare {shlex.join(args)}".rstrip()
    Console(highlight=False).print(write_up(comparison, failed, command, wanted.reach))


def run_missing(comparison: Comparison) -> dict[str, str]:
    """Run what a comparison still lacks, and show it; why contenders failed, by name."""
    from fedem_jax.compare.run import missing, run_all

    todo = missing(comparison)
    if not todo:
        return {}

    from rich.console import Console

    from fedem_jax.data.sources import federation_of

    console = Console(highlight=False)
    federation = federation_of(todo[0].config)
    process.prepare_jax()

    from fedem_jax.cli.signals import Stopping
    from fedem_jax.compare.progress import Watch, opening, paces_of

    console.print(opening(comparison, todo, federation))
    watch = Watch(todo, paces_of(comparison, todo), console)
    with watch, Stopping(watch.say) as stop:
        try:
            return run_all(comparison.directory, todo, watch, stop)
        except KeyboardInterrupt as interrupt:
            kept = f"{comparison.directory} keeps what was done; the same command goes on."
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), kept) from None

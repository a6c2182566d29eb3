"""The console script `fedem` and its commands.

JAX, pandas and Matplotlib are imported only by the commands that need them, once their arguments
are known to be sound.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fedem_jax.errors import Stopped, UserError
from fedem_jax.options import Audit, Bottleneck, Compare, Data, Plan, Report, Train, settings
from fedem_jax.process import cache_programs, told, use_all_cores
from fedem_jax.protocol import nearest
from fedem_jax.settings import FedEM

if TYPE_CHECKING:
    from fedem_jax.comparison import Comparison


def train(args: Sequence[str]) -> None:
    """Run one experiment; `fedem train --help` explains every setting."""
    wanted, base = settings(Train, "fedem train", args)
    source, config, resume = wanted.config, wanted.settings, bool(wanted.resume)

    from fedem_jax.record import (
        CONFIG,
        SUMMARY,
        RunDirectory,
        check_free,
        check_settings,
        first_free,
    )

    if source and not config.out:
        repeated = dataclasses.replace(config, out=base.out).run_directory()
        config = dataclasses.replace(config, out=str(first_free(repeated)))
    out = config.run_directory()
    if not resume:
        check_free(out)
    elif config.out != wanted.resume:
        raise UserError("resume: goes on in the folder of the run; leave --out out.")
    elif (out / SUMMARY).exists():
        print(f"{out}: has finished; `fedem report {out}` shows it.")
        return
    else:
        check_settings(out, config)
    use_all_cores()
    cache_programs()

    from fedem_jax.progress import Progress
    from fedem_jax.signals import Stopping
    from fedem_jax.train import run

    with Progress(directory=out) as progress, Stopping(progress.say) as stop:
        try:
            run(config, None, [progress], RunDirectory(out, resume, progress.say), stop)
        except KeyboardInterrupt as interrupt:
            begun = (out / CONFIG).exists()
            kept = f"go on with `fedem train --resume {out}`." if begun else ""
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), kept) from None


def audit(args: Sequence[str]) -> None:
    """Say whether a protocol leaks held-out items; exit status 1 if it does."""
    config = tyro.cli(Audit, prog="fedem audit", args=args)

    from fedem_jax.record import check_free

    if config.out:
        check_free(config.out)
    use_all_cores()
    cache_programs()

    from rich.console import Console

    from fedem_jax.auditing import audit
    from fedem_jax.progress import Progress

    class Training(Progress):
        """The bar alone: what came of the run, the audit tells."""

        def finish(self, summary, per_client):
            self.__exit__()

    with Training() as progress:
        found = audit(config, observers=[progress])
    Console(highlight=False).print(found)
    if config.out:
        found.save(config.out)
    if found.leaks:
        raise SystemExit(1)


def bottleneck(args: Sequence[str]) -> None:
    """Show what aggregation costs the clients, and what merging saves."""
    wanted = tyro.cli(Bottleneck, prog="fedem bottleneck", args=args)
    stem = Path(wanted.dataset).stem or "data"
    out = Path(wanted.out or Path("results") / f"bottleneck-{stem}-{wanted.protocol}")
    fields = (field.name for field in dataclasses.fields(FedEM))
    config = FedEM(**{name: getattr(wanted, name) for name in fields})

    from fedem_jax.record import check_free

    check_free(out)
    use_all_cores()
    cache_programs()

    from rich.console import Console

    from fedem_jax.bottleneck import bottleneck
    from fedem_jax.bottleneck_report import FILES, save, shown
    from fedem_jax.progress import Progress

    with Progress() as progress:
        found = bottleneck(config, observers=[progress], alone=wanted.alone)
    save(found, out)
    console = Console(highlight=False)
    console.print(shown(found))
    console.print(f"[bold]{out}/[/bold] holds {', '.join(FILES)}", soft_wrap=True)


def compare(args: Sequence[str]) -> None:
    """Run methods side by side over several seeds; goes on where it was stopped."""
    wanted = tyro.cli(Compare, prog="fedem compare", args=args)

    from fedem_jax.comparison import plan_comparison

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

    from fedem_jax.comparison_report import write_up

    command = f"fedem compare {shlex.join(args)}".rstrip()
    Console(highlight=False).print(write_up(comparison, failed, command, wanted.reach))


def run_missing(comparison: Comparison) -> dict[str, str]:
    """Run what a comparison still lacks, and show it; why contenders failed, by name."""
    from fedem_jax.comparison import missing, run_all

    todo = missing(comparison)
    if not todo:
        return {}

    from rich.console import Console

    from fedem_jax.data.sources import federation_of

    console = Console(highlight=False)
    federation = federation_of(todo[0].config)
    use_all_cores()
    cache_programs()

    from fedem_jax.comparison_progress import Watch, opening, paces_of
    from fedem_jax.signals import Stopping

    console.print(opening(comparison, todo, federation))
    watch = Watch(todo, paces_of(comparison, todo), console)
    with watch, Stopping(watch.say) as stop:
        try:
            return run_all(comparison.directory, todo, watch, stop)
        except KeyboardInterrupt as interrupt:
            kept = f"{comparison.directory} keeps what was done; the same command goes on."
            raise Stopped(getattr(interrupt, "number", signal.SIGINT), kept) from None


def plan(args: Sequence[str]) -> None:
    """Say what a run would cost: padding, memory, operations, time; runs nothing."""
    config = settings(Plan, "fedem plan", args)[0].settings
    use_all_cores()

    from rich.console import Console

    from fedem_jax.data.sources import federation_of
    from fedem_jax.plan import plan_run, shown
    from fedem_jax.train import Trial

    federation = federation_of(config)
    layout = Trial(config, federation).layout
    Console(highlight=False).print(shown(plan_run(config, federation, layout)))


def data(args: Sequence[str]) -> None:
    """List the known data sets."""
    tyro.cli(Data, prog="fedem data", args=args)

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fedem_jax.data.sources import known_datasets

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("users", justify="right")
    table.add_column("items", justify="right")
    table.add_column("origin", overflow="fold")
    for known in known_datasets():
        table.add_row(known.name, f"{known.users:,}", f"{known.items:,}", known.origin)
    console = Console(highlight=False)
    console.print(table)
    console.print("Users and items as in the file, before the filter of the protocol.", style="dim")


def report(args: Sequence[str]) -> None:
    """Redraw the curves of finished runs and print their closing tables."""
    wanted = tyro.cli(Report, prog="fedem report", args=args)
    if not wanted.directories:
        raise UserError("report: names no run directory; give at least one.")

    from rich.console import Console

    from fedem_jax.plots import learning_curves
    from fedem_jax.progress import closing, comparison
    from fedem_jax.record import CURVES, draw_curves, draw_rho, read_run

    runs = [(str(path), read_run(path)) for path in wanted.directories]
    console = Console(highlight=False)
    for path, run in runs:
        draw_curves(Path(path) / CURVES, run)
        draw_rho(Path(path), run.summary)
        console.print(closing(run.summary))
    if len(runs) > 1:
        console.print(comparison(runs))
    if wanted.picture:
        learning_curves(runs, wanted.picture, title="Learning curves")


def sweep(args: Sequence[str]) -> None:
    """Run many settings of a method, stacked, and find the best; goes on where it was stopped."""
    from fedem_jax.sweep_cli import sweep

    sweep(args)


COMMANDS = {
    "train": train,
    "compare": compare,
    "sweep": sweep,
    "bottleneck": bottleneck,
    "plan": plan,
    "audit": audit,
    "data": data,
    "report": report,
}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 an audited protocol leaks, 2 the user's mistake, 130
    interrupted, 143 terminated."""
    args = sys.argv[1:] if args is None else list(args)

    def command() -> None:
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
        elif args[0] in COMMANDS:
            COMMANDS[args[0]](args[1:])
        else:
            raise UserError(f"unknown command '{args[0]}': {nearest(args[0], list(COMMANDS))}.")

    told(command)


def _usage() -> str:
    commands = "\n".join(f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items())
    return (
        "usage: fedem COMMAND [OPTIONS]\n\n"
        "Federated recommendation, simulated on one accelerator.\n\n"
        f"commands:\n{commands}\n\n"
        "Start with `fedem train`: it runs the embedded synthetic federation."
    )

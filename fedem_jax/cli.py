"""The console script `fedem` and its commands.

JAX, pandas and Matplotlib are imported only by the commands that need them, once their arguments
are known to be sound.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from fedem_jax.config import Config
from fedem_jax.errors import Stopped, UserError
from fedem_jax.presets import preset
from fedem_jax.protocol import nearest
from fedem_jax.settings import FedEM, LocalOnly, load_settings

if TYPE_CHECKING:
    from fedem_jax.comparison import Comparison

Kind = TypeVar("Kind", bound="Train")


@dataclass(frozen=True)
class Train:
    """Train a federation of recommender clients and record how well it ranks.

    The run directory receives the settings, a line per evaluated round, a summary and a picture of
    the learning curves.

    examples:
      fedem train
      fedem train --preset released
      fedem train --dataset ml-100k --rounds 30
      fedem train --dataset mine.csv --columns user_id movie_id --merging once
      fedem train --config results/x/config.json --seed 1
      fedem train --resume results/x
    """

    config: Annotated[str, tyro.conf.arg(metavar="PATH")]
    """Settings to start from, as found in a run directory; other flags override them. Without --out
    the run goes beside the one it repeats."""
    preset: Annotated[str, tyro.conf.arg(metavar="{auto,released,tuned}")]
    """Settings to start from: released = the authors' program; tuned = chosen on validation;
    auto = tuned for the synthetic federation, released otherwise."""
    settings: tyro.conf.OmitArgPrefixes[Config]
    resume: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Run directory of a run that was cut off: go on with it, from its last checkpoint to its last
    round, with the settings that it has."""


@dataclass(frozen=True)
class Audit(LocalOnly):
    """Say whether a protocol leaks held-out items: train Local-only, in which no client hears of
    another, and compare it with its chance level; rank by popularity; count what is drawn.

    Exit status: 1 if it leaks, else 0.

    examples:
      fedem audit --dataset ml-100k --protocol paper
      fedem audit --dataset mine.csv --columns user_id movie_id --min-interactions 5
    """

    rounds: int = 50
    """Rounds of Local-only."""
    eval_every: int = 10
    """Rounds between two looks at Local-only; the verdict is on the last round."""
    out: str = ""
    """Folder that receives audit.json with all figures; empty: nothing is written."""

    method: tyro.conf.Suppress[tyro.conf.Fixed[str]] = LocalOnly.method
    per_client: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    checkpoint_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    checkpoint_minutes: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0


@dataclass(frozen=True)
class Plan(Train):
    """Say what a run would cost, without running it: size classes and their padding, memory,
    operations and bytes of a round, and the least time that it can take on this machine.

    Takes all settings of `fedem train`.

    examples:
      fedem plan --dataset ml-1m
      fedem plan --dataset ml-100k --dim 64 --block-size 16
    """

    resume: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""


@dataclass(frozen=True)
class Compare:
    """Run methods side by side, each with the same seeds on the same splits, and say which is
    better: table.md, table.csv and comparison.png.

    A method may carry settings of its own, NAME:FIELD=VALUE:FIELD=VALUE, which are listed by
    `fedem train --method NAME --help`. Without --methods all are compared, PFedRec also as
    pfedrec:evaluated=global. One that fails, in memory or in numbers, becomes a line that says why.

    Each run has a folder of its own. Called again, the same command runs what is missing and goes
    on with a run that was cut off, so a comparison may be stopped at any time, and more methods or
    seeds may be added later.

    examples:
      fedem compare --seeds 2 --rounds 10
      fedem compare --dataset ml-100k --protocol paper-p --methods fedem pfedrec fedmf
      fedem compare --dataset filmtrust --methods fedem fedem:merging=once:dim=32
      fedem compare --dataset mine.csv --settings columns=user,movie eval_every=5
    """

    dataset: str = "synthetic"
    """Name of a known data set (`fedem data` lists them) or path of a CSV, TSV or parquet file."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[:FIELD=VALUE] ...")] = ()
    """Methods to compare; differences are taken to the first FedEM among them. Empty: all."""
    seeds: int = 5
    """Seeds of each method: 0, 1, ... Candidates, initial parameters and draws depend on them."""
    rounds: int = 0
    """Rounds of all methods, in place of those of their presets; 0: as there."""
    preset: Annotated[str, tyro.conf.arg(metavar="{auto,released,tuned}")] = "auto"
    """Settings to start from: released = the authors' programs; tuned = chosen on validation;
    auto = tuned for the synthetic federation, released otherwise."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Settings of all methods alike: eval_every, top_k, columns, min_interactions, dim, ..."""
    reach: float = 0.0
    """Also say how many rounds and bytes it takes to a validation HR of so much; 0: do not."""
    out: str = ""
    """Folder of tables, picture and runs; empty: results/compare-<dataset>-<protocol>."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""


@dataclass(frozen=True)
class Bottleneck(FedEM):
    """Show what aggregation costs and what merging saves: train FedEM, and look at every aggregated
    client with its local, its aggregated and its merged item table: quality, loss, and the distance
    to its own optimum. Writes tables and pictures.

    examples:
      fedem bottleneck --dataset ml-100k --protocol paper
      fedem bottleneck --dataset mine.csv --columns user_id movie_id --aggregation-fraction 1
    """

    alone: int = 20
    """Rounds that the clients train on alone at the end, to their own optima."""

    method: tyro.conf.Suppress[tyro.conf.Fixed[str]] = FedEM.method
    per_client: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    checkpoint_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    checkpoint_minutes: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0
    eval_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 1


@dataclass(frozen=True)
class Data:
    """List the data sets that `fedem train --dataset` knows by name; the path of a CSV, TSV or
    parquet file of your own will do as well.
    """


@dataclass(frozen=True)
class Report:
    """Redraw the curves of finished runs and print their closing tables; several runs are also
    listed side by side, and those that differ only in their seed summed up by mean and standard
    deviation.

    examples:
      fedem report results/x
      fedem report results/ml-100k-fedem-leak-free-seed*
      fedem report results/x results/y --picture both.png
    """

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    picture: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Draw all runs into this one picture as well."""


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


def settings(kind: type[Kind], prog: str, args: Sequence[str]) -> tuple[Kind, Config]:
    """The settings that arguments ask for, and those that they started from."""
    start = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    start.add_argument("--config", default="")
    start.add_argument("--preset", default="auto")
    start.add_argument("--dataset", default="synthetic")
    start.add_argument("--method", default=FedEM.method)
    start.add_argument("--resume", default="")
    given = start.parse_known_args(args)[0]
    if given.resume and given.config:
        raise UserError("resume: goes on with the settings of the run; leave --config out.")
    if given.resume:
        base = load_settings(Path(given.resume) / "config.json")
        defaults = dataclasses.replace(base, out=given.resume)
    elif given.config:
        base = load_settings(given.config)
        defaults = dataclasses.replace(base, out="")
    else:
        base = defaults = preset(given.preset, dataset=given.dataset, method=given.method)
    default = kind(given.config, given.preset, defaults, given.resume)
    return tyro.cli(kind, prog=prog, args=args, default=default), base


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


def use_all_cores() -> None:
    """Make each usable core of the host a JAX device. Call before JAX first computes."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_programs() -> None:
    """Keep compiled programs between runs; JAX_COMPILATION_CACHE_DIR names another place."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "fedem_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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


def told(work: Callable[[], None]) -> None:
    """Do some work; whatever ends it early becomes a sentence and an exit status, as in `main`."""
    try:
        work()
    except UserError as error:
        _complain("error", str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        _complain("interrupted", str(interrupt) or "nothing was written.")
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _usage() -> str:
    commands = "\n".join(f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items())
    return (
        "usage: fedem COMMAND [OPTIONS]\n\n"
        "Federated recommendation, simulated on one accelerator.\n\n"
        f"commands:\n{commands}\n\n"
        "Start with `fedem train`: it runs the embedded synthetic federation."
    )


def _complain(kind: str, sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    console.print(Text.assemble((f"{kind}:", "bold red"), f" {sentence}"), soft_wrap=True)

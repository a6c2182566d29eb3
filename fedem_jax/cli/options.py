"""The options of each command of `fedem`, with the texts of `--help`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from fedem_jax.cli.parsing import parse
from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.file import load_settings
from fedem_jax.config.presets import preset
from fedem_jax.config.settings import LocalOnly
from fedem_jax.errors import UserError

Kind = TypeVar("Kind", bound="Train")
Tracker = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class Train:
    """Train a federation of recommender clients and record how well it ranks.

    The run directory gets the settings, a line per evaluated round, a summary and a picture of the
    learning curves.

    examples:
      fedem train
      fedem train --preset released
      fedem train --dataset ml-100k --rounds 30
      fedem train --dataset mine.csv --columns user_id movie_id --merging once
      fedem train --dataset mine.csv --min-rating 4 --k-core 5 --split ratio
      fedem train --dataset train.csv --val-file val.csv --test-file test.csv
      fedem train --config results/x/config.json --seed 1
      fedem train --resume results/x
      fedem train --dataset ml-100k --log-to tensorboard
    """

    config: Annotated[str, tyro.conf.arg(metavar="PATH")]
    """Settings to start from: config.json of a run directory. Other flags override them. Without
    --out the new run directory stands beside the old one."""
    preset: Annotated[str, tyro.conf.arg(metavar="{auto,released,tuned}")]
    """Settings to start from: released = the authors' program; tuned = chosen on validation under
    leak-free; auto = tuned under leak-free where there are some, else released."""
    settings: tyro.conf.OmitArgPrefixes[Config]
    resume: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Directory of an interrupted run; it goes on from its last checkpoint with its settings."""
    alternatives: Literal["auto", "yes", "no"] = "auto"
    """Whether a run of FedEM also shows what its clients would get without merging: alone, from
    one table for all, from their cohort's table, and from popularity. Each is a run with the same
    settings. auto = on the embedded federation, unless --quiet or --json is given."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show nothing but warnings and errors, on standard error."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print summary.json on standard output, and the progress on standard error."""
    log_to: tuple[Tracker, ...] = ()
    """Trackers that the run is also written for, below its directory. Each needs the extra of its
    name. --resume goes on with them."""
    coordinator: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")] = ""
    """Address of the first process, where several run together. All of them get the same command
    and the same --out, and each its --process-id. srun and mpirun give these three on their own."""
    process_id: int = -1
    """Number of this process, from 0. The first one writes the run directory and shows the run."""
    num_processes: int = 0
    """Number of processes."""


@dataclass(frozen=True)
class Audit(LocalOnly):
    """Check whether a protocol leaks held-out items. Train Local-only, in which clients exchange
    nothing, and compare its metrics with chance and with a ranking by popularity. Count the
    held-out items that training draws.

    Exit status: 1 if it leaks, else 0.

    examples:
      fedem audit --dataset ml-100k --protocol paper
      fedem audit --dataset mine.csv --columns user_id movie_id --min-interactions 5
    """

    rounds: int = 50
    """Rounds of Local-only."""
    eval_every: int = 10
    """Rounds between two evaluations of Local-only; the verdict is on the last round."""
    out: str = ""
    """Folder for audit.json with all figures; empty: nothing is written."""

    method: tyro.conf.Suppress[tyro.conf.Fixed[str]] = LocalOnly.method
    patience: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    per_client: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    checkpoint_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    checkpoint_minutes: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0
    keep: tyro.conf.Suppress[tyro.conf.Fixed[Literal["best-and-last", "none"]]] = "none"
    start: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""


@dataclass(frozen=True)
class Plan(Train):
    """Estimate what a run would cost, without running it. The tables show size classes and their
    padding, balance over the devices, memory by phase, and bytes sent in a round.

    It gives no times. It takes all settings of `fedem train`.

    examples:
      fedem plan --dataset ml-1m
      fedem plan --dataset ml-100k --dim 64 --block-size 16
      fedem plan --dataset ml-1m --devices 8 --device-memory 80GB
    """

    devices: int = 0
    """Number of devices, which need not be at hand; 0: all that are, or one with
    --device-memory."""
    device_memory: Annotated[str, tyro.conf.arg(metavar="BYTES")] = ""
    """What each offers, such as 80GB; they are then taken to be GPUs. Empty: as the devices of this
    machine."""

    resume: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    alternatives: tyro.conf.Suppress[tyro.conf.Fixed[Literal["auto", "yes", "no"]]] = "no"
    quiet: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    json: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    log_to: tyro.conf.Suppress[tyro.conf.Fixed[tuple[Tracker, ...]]] = ()
    coordinator: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    process_id: tyro.conf.Suppress[tyro.conf.Fixed[int]] = -1
    num_processes: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0


@dataclass(frozen=True)
class Compare:
    """Compare methods with the same seeds on the same splits. The results are table.md, table.csv,
    comparison.png and, with the extra `html`, report.html.

    NAME:FIELD=VALUE:FIELD=VALUE gives a method its own settings; `fedem train --method NAME --help`
    lists them. LABEL=NAME:FIELD=VALUE also gives it a short name for tables and pictures. If none
    is named, all are compared, PFedRec also as pfedrec:evaluated=global. If a method runs out of
    memory or diverges, its line says so.

    Each run has its own folder. The same command again runs what is missing and resumes an
    interrupted run. So a comparison may be stopped at any time, and methods or seeds may be added
    later.

    examples:
      fedem compare --seeds 2 --rounds 10
      fedem compare --dataset ml-100k --protocol paper-p --methods fedem pfedrec fedmf
      fedem compare --dataset filmtrust --methods fedem fedem:merging=once:dim=32
      fedem compare --methods fedem learned=fedem:merging=once:adapter=table
      fedem compare --dataset mine.csv --settings columns=user,movie eval_every=5
    """

    dataset: str = "synthetic"
    """Name of a known data set (`fedem data` lists them) or path of a CSV, TSV or parquet file."""
    protocol: str = "leak-free"
    """Rules for split, negatives and selection: leak-free, paper or paper-p."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[LABEL=]NAME[:FIELD=VALUE]...")] = ()
    """Methods to compare; empty: all. Differences are taken to the first FedEM among them."""
    seeds: int = 5
    """Seeds of each method: 0, 1, ... Candidates, initial parameters and draws depend on them."""
    rounds: int = 0
    """Rounds of all methods; 0: those of their presets."""
    preset: Annotated[str, tyro.conf.arg(metavar="{auto,released,tuned}")] = "auto"
    """Settings to start from: released = the authors' programs; tuned = chosen on validation under
    leak-free; auto = tuned under leak-free where there are some, else released."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Settings of all methods, such as eval_every, top_k, columns, min_interactions or dim."""
    reach: float = 0.0
    """Also give the rounds and bytes until validation HR reaches this value; 0: do not."""
    out: str = ""
    """Folder for tables, picture and runs; empty: results/compare-<dataset>-<protocol>."""
    keep: Literal["best-and-last", "none"] = "best-and-last"
    """States of all parameters that each run keeps, for `fedem recommend` and `fedem export`; the
    bytes are shown before the first run."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show nothing but warnings and errors, on standard error."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object with the numbers of table.csv on standard output, and the progress on
    standard error."""


@dataclass(frozen=True)
class Bottleneck(FedEM):
    """Measure what aggregation costs and what merging saves. FedEM is trained. Every aggregated
    client is evaluated with its local, its aggregated and its merged item table. Tables and
    pictures show ranking, loss, and distance to the client's own optimum.

    examples:
      fedem bottleneck --dataset ml-100k --protocol paper
      fedem bottleneck --dataset mine.csv --columns user_id movie_id --aggregation-fraction 1
    """

    alone: int = 20
    """Rounds that the clients train alone at the end, to reach their own optima."""

    method: tyro.conf.Suppress[tyro.conf.Fixed[str]] = FedEM.method
    loss: tyro.conf.Suppress[tyro.conf.Fixed[str]] = FedEM.loss
    patience: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    per_client: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False
    checkpoint_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    checkpoint_minutes: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 0.0
    keep: tyro.conf.Suppress[tyro.conf.Fixed[Literal["best-and-last", "none"]]] = "none"
    start: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    eval_every: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 1


@dataclass(frozen=True)
class Data:
    """List the data sets that `fedem train --dataset` knows by name. Or show how a file is read:
    what becomes user, item, rating and time, counts, ties, and the first rows. Or split it once,
    and write the federation to a file that other machines train on. Nothing is trained.

    examples:
      fedem data
      fedem data mine.csv
      fedem data mine.csv --columns customer product "" bought --separator ";"
      fedem data ml-1m --out ml-1m.npz
      fedem train --dataset ml-1m.npz
    """

    dataset: tyro.conf.Positional[str] = ""
    """Path of a file of your own, or name of a known data set; empty: list the known ones."""
    columns: tuple[str, ...] = ()
    """Names or positions (from 0) of user, item, rating and timestamp."""
    separator: str = ""
    """Column separator; empty: found in the first lines."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first line names the columns."""
    encoding: str = ""
    """Encoding of the text; empty: UTF-8 or UTF-16, else cp1252 as a guess."""
    decimal: Literal["", ".", ","] = ""
    """Decimal point; empty: the point, or the comma where it is beyond doubt."""
    order: Literal["", "file", "item-appearance", "random"] = ""
    """Order of time if the file has none, as in `fedem train`."""
    cohort: str = ""
    """Name or position of a column that declares the cohort of a user."""
    ties_latest: Literal["first", "last"] = "first"
    """Which row of the file is the latest among equal times of a user."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    out: str = ""
    """File, ending in .npz, that the split federation is written to; empty: none is written."""
    protocol: Literal["leak-free", "paper", "paper-p"] = "leak-free"
    """Protocol that it is split by (--out)."""
    seed: int = 0
    """Seed of its candidates (--out)."""


@dataclass(frozen=True)
class Report:
    """Redraw the learning curves of finished runs and print their closing tables. Several runs also
    get a common table. Runs that differ only in their seed get mean and standard deviation.

    examples:
      fedem report results/x
      fedem report results/ml-100k-fedem-leak-free-seed*
      fedem report results/x results/y --picture both.png
      fedem report results/x --html report.html
    """

    directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories; with --html also the folder of a comparison or of a sweep."""
    picture: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Also draw all runs into this picture."""
    html: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Also write a page of HTML that needs no network (needs the extra `html`). It holds settings,
    curves, tables, clients and protocol. A comparison or a sweep may stand in place of the runs."""


def settings(kind: type[Kind], prog: str, args: Sequence[str]) -> tuple[Kind, Config]:
    """Parse the options of a command that trains.

    Args:
        kind: class of the options.
        prog: name of the command, for its help.
        args: arguments of the command.

    Returns:
        The options, and the settings that they started from.

    Raises:
        UserError: --config and --resume are given together, or settings cannot be read.
    """
    start = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    start.add_argument("--config", default="")
    start.add_argument("--preset", default="auto")
    start.add_argument("--dataset", default="synthetic")
    start.add_argument("--method", default=FedEM.method)
    start.add_argument("--protocol", default=Config.protocol)
    start.add_argument("--backbone", default="")
    start.add_argument("--resume", default="")
    flags = start.parse_known_args(args)[0]
    if flags.resume and flags.config:
        raise UserError("resume: takes the settings of the run; leave --config out.")
    if flags.resume:
        base = load_settings(Path(flags.resume) / "config.json")
        defaults = dataclasses.replace(base, out=flags.resume)
    elif flags.config:
        base = load_settings(flags.config)
        defaults = dataclasses.replace(base, out="")
    else:
        chosen = {"dataset": flags.dataset, "method": flags.method, "protocol": flags.protocol}
        if flags.backbone and flags.method == FedEM.method:
            chosen["backbone"] = flags.backbone
        base = defaults = preset(flags.preset, **chosen)
    default = kind(flags.config, flags.preset, defaults, flags.resume)
    return parse(kind, prog, args, default=default), base

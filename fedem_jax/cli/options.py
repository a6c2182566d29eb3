"""What each command of `fedem` can be told, as its `--help` lists it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.file import load_settings
from fedem_jax.config.presets import preset
from fedem_jax.config.settings import LocalOnly
from fedem_jax.errors import UserError

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
    """Say what a run would cost, without running it. It tells, for every method: size classes and
    their padding, balance over the devices, memory by phase, and bytes on the wire in a round.

    It tells no time. Takes all settings of `fedem train`.

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

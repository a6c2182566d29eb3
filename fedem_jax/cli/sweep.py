"""`fedem sweep`: its settings, and what it does with them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fedem_jax.cli import process
from fedem_jax.cli.options import Train, settings
from fedem_jax.config.base import Config
from fedem_jax.sweep.description import Sweep
from fedem_jax.sweep.space import space


@dataclass(frozen=True)
class SweepCommand(Train):
    """Run many settings of a method, stacked on the accelerator, and find the best by validation:
    table.md, best.json (for `fedem train --config`), tuned.toml (an entry for `--preset tuned`),
    effects.png, settings.png, trials.csv.

    --vary FIELD=VALUES names what is varied, as often as need be; all other settings of `fedem
    train` are flags here, too. VALUES are

      0.01,0.03,0.1     these                       avg,sim,both   these
      0.5:1:6           6 in equal steps            16x8,32x16     lists of numbers, joined by an x
      log:1e-3:1e-1:5   5 in equal ratios
      0.5:1             any in between              log:1e-3:1e-1  any, uniform in its logarithm

    Step sizes, penalties, alpha, init_scale, constant merging and the seed are arguments of one
    compiled program; whatever changes it (dim, local_epochs, batch_size, aggregation, ...) makes
    one more. What is to come is printed before it starts. Called again, the same command runs what
    is missing, so a sweep may be stopped at any time; more seeds or more random trials may be added
    later. A trial whose numbers explode is recorded as diverged and harms no other.

    examples:
      fedem sweep --rounds 20 --vary lr_embedding=0.01,0.03,0.1 --vary alpha=0.5:1:3
      fedem sweep --dataset filmtrust --method fedmf --seeds 3 --vary lr_embedding=log:1e-3:1e-1:5
      fedem sweep --dataset ml-100k --search random --trials 30 --vary lr_embedding=log:1e-3:1 \\
        --vary init_scale=0.1,0.3,1 --vary local_epochs=1,2,5,10 --halving 3
      fedem sweep --space space.toml --search optuna --trials 40
      fedem train --config results/sweep-ml-100k-fedem-leak-free/best.json
    """

    vary: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUES")]
    ] = ()
    """A setting and its values, as above."""
    space: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """TOML or JSON file with values by name of the setting, each a list or as above."""
    seeds: int = 1
    """Seeds of each setting: --seed, the next one, ... A setting is judged by their mean."""
    search: Annotated[str, tyro.conf.arg(metavar="{grid,random,optuna}")] = "grid"
    """grid = all combinations; random = so many drawn; optuna = asked for batch by batch, by what
    is known so far (needs the extra `search`)."""
    trials: int = 0
    """Settings to draw or to ask for; each runs with all seeds."""
    search_seed: int = 0
    """Seed of the search itself."""
    halving: int = 0
    """Successive halving: only the best 1/HALVING of the settings go on after some rounds, and so
    again; 0: all run to their end."""
    select: Annotated[str, tyro.conf.arg(metavar="{val,val_full}")] = "val"
    """Validation metric that decides, HR@K then NDCG@K: among sampled candidates or all items."""
    width: int = 0
    """Trials side by side; 0: as many as fit on an accelerator, one on a CPU."""
    chunk: int = 0
    """Trials of one call of the program, after which the tables are written; 0: WIDTH."""

    resume: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""


def sweep(args: Sequence[str]) -> None:
    """Run many settings; goes on where it was stopped."""
    wanted = settings(SweepCommand, "fedem sweep", args)[0]
    config = wanted.settings
    asked = Sweep(
        config=dataclasses.replace(config, out=""),
        varied=space(type(config), wanted.vary, wanted.space),
        seeds=tuple(range(config.seed, config.seed + wanted.seeds)),
        search=wanted.search,
        trials=wanted.trials,
        search_seed=wanted.search_seed,
        select=wanted.select,
        halving=wanted.halving,
    )
    out = Path(config.out) if config.out else folder(config)
    process.prepare_jax()

    from rich.console import Console

    from fedem_jax.sweep.progress import Watch
    from fedem_jax.sweep.run import run_sweep
    from fedem_jax.sweep.tables import write_up

    console = Console(highlight=False)
    try:
        with Watch(console) as watch:
            result = run_sweep(asked, out, width=wanted.width, chunk=wanted.chunk, watch=watch)
    except KeyboardInterrupt:
        kept = f"{out} keeps the finished trials; the same command goes on." if out.exists() else ""
        raise KeyboardInterrupt(kept) from None
    console.print(write_up(result, out, f"fedem sweep {shlex.join(args)}"), soft_wrap=True)


def folder(config: Config) -> Path:
    """Where a sweep is kept unless the user says otherwise."""
    stem = Path(config.dataset).stem or "data"
    return Path("results") / f"sweep-{stem}-{config.method}-{config.protocol}"

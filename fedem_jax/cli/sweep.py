"""`fedem sweep`: its options, and the command."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedem_jax.cli import process
from fedem_jax.cli.options import Tracker, Train, settings
from fedem_jax.config.base import Config
from fedem_jax.errors import UserError
from fedem_jax.storage.files import plain
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.shards import Shard, Unfinished, without_password
from fedem_jax.sweeps.space import space


@dataclass(frozen=True)
class SweepCommand(Train):
    """Run many settings of a method, stacked on the accelerator, and choose the best on validation.
    The results are table.md, best.json (for `fedem train --config`), tuned.toml (an entry
    for `--preset tuned`), effects.png, settings.png, trials.csv and, with the extra `html`,
    report.html.

    Each --vary FIELD=VALUES varies one setting. All other settings of `fedem train` are also flags
    here. VALUES are
      0.01,0.03,0.1     these                       avg,sim,both   these
      0.5:1:6           6 in equal steps            16x8,32x16     lists of numbers, joined by an x
      log:1e-3:1e-1:5   5 in equal ratios
      0.5:1             any in between              log:1e-3:1e-1  any, uniform in the logarithm

    Step sizes, penalties, alpha, init_scale, constant merging and the seed are arguments of a
    compiled program. Each combination of all others (dim, local_epochs, batch_size, and so on)
    needs its own program. The plan is printed first. The same command again runs what is missing.
    So a sweep may be stopped at any time, and seeds or random trials may be added later. A trial
    that diverges is recorded as such and does not affect the others.

    On a cluster, job i of n gives --shard i/n. That is --shard $SLURM_ARRAY_TASK_ID/8 where the
    array is 1-8, and --shard $((JOB_COMPLETION_INDEX + 1))/8 in a Job of Kubernetes, which counts
    from 0. In the end --collect in place of --shard makes the tables of all.

    examples:
      fedem sweep --rounds 20 --vary lr_embedding=0.01,0.03,0.1 --vary dim=8,16
      fedem sweep --dataset filmtrust --method fedmf --seeds 3 --vary lr_embedding=log:1e-3:1e-1:5
      fedem sweep --dataset ml-100k --search random --trials 30 --vary lr_embedding=log:1e-3:1 \\
        --vary init_scale=0.1,0.3,1 --vary local_epochs=1,2,5,10 --halving 3
      fedem sweep --space space.toml --search optuna --trials 40
      fedem sweep --seeds 5 --vary lr_embedding=log:1e-3:1:40 --shard 3/8
      fedem sweep --seeds 5 --vary lr_embedding=log:1e-3:1:40 --collect
      fedem train --config results/sweep-ml-100k-fedem-leak-free/best.json
    """

    vary: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUES")]
    ] = ()
    """A setting and its values, as above; may be repeated."""
    space: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """TOML or JSON file with the values of each setting, as a list or as above."""
    seeds: int = 1
    """Seeds of each setting, from --seed up. The mean over the seeds ranks a setting."""
    search: Annotated[str, tyro.conf.arg(metavar="{grid,random,optuna}")] = "grid"
    """grid = all combinations; random = --trials random ones; optuna = --trials settings that
    Optuna proposes, batch by batch, from the results so far (needs the extra `search`)."""
    trials: int = 0
    """Settings of a search by random or optuna; each runs with all seeds."""
    search_seed: int = 0
    """Seed of the search."""
    halving: int = 0
    """Successive halving: at several rounds only the best 1/HALVING of the settings go on; 0: all
    run to the last round."""
    select: Annotated[str, tyro.conf.arg(metavar="{val,val_full}")] = "val"
    """Validation metric, HR@K then NDCG@K: val = among sampled candidates; val_full = among all
    items."""
    width: int = 0
    """Trials that run at the same time; 0: as many as fit on an accelerator, one on a CPU."""
    chunk: int = 0
    """Trials of one call of the program; the tables are written after each call. 0: WIDTH."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = ""
    """Run part I of N, counted from 1, in OUT/shards/I-of-N; empty: run all. Each part has about
    as many trials, and compiles few programs. The same command resumes it."""
    collect: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run nothing; make tables, pictures and best.json of all shards in OUT. If shards are missing
    or unfinished, say which, and how each runs again (exit status 2)."""
    storage: Annotated[str, tyro.conf.arg(metavar="PATH|URL")] = ""
    """Where the shards of --search optuna share their trials: a file ending in .journal in a folder
    that all see, or a database, such as sqlite:///search.db or postgresql://user@host/name."""

    resume: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    alternatives: tyro.conf.Suppress[tyro.conf.Fixed[Literal["auto", "yes", "no"]]] = "no"
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object with all settings, the best first, on standard output, and the progress
    on standard error."""
    log_to: tyro.conf.Suppress[tyro.conf.Fixed[tuple[Tracker, ...]]] = ()
    coordinator: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    process_id: tyro.conf.Suppress[tyro.conf.Fixed[int]] = -1
    num_processes: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0


def sweep(args: Sequence[str]) -> None:
    """Run many settings and choose the best; resumes where it was stopped."""
    options = settings(SweepCommand, "fedem sweep", args)[0]
    config = options.settings
    plan = Sweep(
        config=dataclasses.replace(config, out=""),
        varied=space(type(config), options.vary, options.space),
        seeds=tuple(range(config.seed, config.seed + options.seeds)),
        search=options.search,
        trials=options.trials,
        search_seed=options.search_seed,
        select=options.select,
        halving=options.halving,
        shard=Shard.read(options.shard) if options.shard else None,
        storage=options.storage,
    )
    out = Path(config.out) if config.out else folder(config)
    process.prepare_jax()

    from fedem_jax.report.terminal import Terminal
    from fedem_jax.sweeps.progress import Watch
    from fedem_jax.sweeps.run import collect_sweep, run_sweep
    from fedem_jax.sweeps.tables import as_dict, write_up

    console = Terminal(stderr=options.json, quiet=options.quiet)
    try:
        if options.collect:
            result = collect_sweep(plan, out)
        else:
            with Watch(console) as watch:
                result = run_sweep(plan, out, width=options.width, chunk=options.chunk, watch=watch)
    except Unfinished as error:
        commands = [command_of(args, shard) for shard in error.shards]
        raise UserError(
            "\n  ".join([f"{error.found}; run again, then collect:", *commands])
        ) from None
    except KeyboardInterrupt:
        hint = f"{out} keeps the finished trials; the same command goes on." if out.exists() else ""
        raise KeyboardInterrupt(hint) from None
    if plan.shard:
        out = plan.shard.folder(out)
        console.print(f"shard {plan.shard} has ended; once all have, --collect makes the tables")
    else:
        console.print(write_up(result, out, command_of(args), console.say), soft_wrap=True)
    if options.json:
        print(json.dumps(as_dict(result, out), indent=2, allow_nan=False, default=plain))


def command_of(args: Sequence[str], shard: Shard | None = None) -> str:
    """The command with these arguments, without passwords; with `shard`, the one that runs it."""
    args = list(args)
    if shard:
        args[args.index("--collect") : args.index("--collect") + 1] = ["--shard", str(shard)]
    return without_password(f"fedem sweep {shlex.join(args)}")


def folder(config: Config) -> Path:
    """Default folder of a sweep."""
    stem = Path(config.dataset).stem or "data"
    return Path("results") / f"sweep-{stem}-{config.method}-{config.protocol}"

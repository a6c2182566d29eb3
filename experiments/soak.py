"""`make soak`: kills and resumes random runs, and compares them with uninterrupted runs.

The runs have random methods and settings, on small synthetic federations. Every process is a real
`fedem train`. A kill is SIGKILL or SIGTERM at a random moment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedem_jax.cli.parsing import parse
from fedem_jax.cli.process import run_command
from fedem_jax.config.registry import METHODS
from fedem_jax.errors import UserError
from fedem_jax.runs.names import CHECKPOINT, METRICS, PER_CLIENT, RHO, SUMMARY
from fedem_jax.storage.checkpoint import flat, found, read
from fedem_jax.storage.files import put

TIMES = ("compile_seconds", "seconds_per_round", "resumed")
"""Entries of a summary that an interruption may change."""
SHORTLY = 0.4
"""Seconds after a checkpoint within which most kills come: about the time of all rounds of a run,
which is short beside its start-up."""


@dataclass(frozen=True)
class Soak:
    """Run, kill, resume and compare for a while, and report it. The exit status is 1 if anything
    was lost or differed.

    examples:
      python experiments/soak.py --minutes 5
      python experiments/soak.py --out experiments/soak.md
    """

    minutes: float = 30.0
    """How long; the last run is completed."""
    seed: int = 0
    """Seed of methods, settings, data and moments."""
    out: str = ""
    """File that the table is written to; empty: it is only shown."""


@dataclass
class Tally:
    """Counts of what was done."""

    methods: Counter[str] = field(default_factory=Counter)
    """Runs by method."""
    kills: Counter[str] = field(default_factory=Counter)
    """Kills by signal."""
    resumes: int = 0
    resumed_rounds: int = 0
    """Rounds restored from checkpoints, over all resumes."""
    diverged: int = 0
    """Runs that diverged; they are not compared."""
    mismatches: list[str] = field(default_factory=list)


class Failed(Exception):
    """A process ended in an unexpected way."""


class Diverged(Exception):
    """A run reported that its numbers are not finite, because of its random settings."""


def train(arguments: Sequence[str], cache: Path) -> subprocess.Popen[bytes]:
    """Start `fedem train` with these arguments."""
    command = [sys.executable, "-m", "fedem_jax", "train", *arguments]
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)} | every
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)


def to_its_end(process: subprocess.Popen[bytes], expected: Sequence[int] = (0,)) -> int:
    """Wait for the end of a process. Returns its exit status.

    Raises:
        Failed: the status is unexpected; the message has the last line of the error output.
        Diverged: the numbers of the run are not finite.
    """
    _, errors = process.communicate()
    if process.returncode not in expected:
        command = " ".join(map(str, process.args)) if isinstance(process.args, list) else ""
        (last,) = errors.decode().strip().splitlines()[-1:] or ["no error output"]
        if process.returncode == 2 and "that are not finite" in last:
            raise Diverged(last)
        raise Failed(f"status {process.returncode} of {command}: {last}")
    return process.returncode


def next_checkpoint(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the process has written a new checkpoint, or has ended."""
    before = max(found(folder), default=0)
    while process.poll() is None and max(found(folder), default=0) <= before:
        time.sleep(0.005)


def killed(
    process: subprocess.Popen[bytes], after: float, number: signal.Signals, tally: Tally
) -> bool:
    """Send a signal after some seconds. Returns whether it ended the process.

    Raises:
        Failed: the process ended neither by the signal nor with success.
    """
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    status = to_its_end(process, (0, -number, 128 + number))
    if status:
        tally.kills[number.name] += 1
    return status != 0


def survive(
    arguments: Sequence[str], out: Path, cache: Path, moments: np.random.Generator,
    longest: float, kills: int, tally: Tally, terminate: float = 0.3, aimed: float = 0.0,
) -> None:  # fmt: skip
    """Run into `out`, kill and resume the run up to `kills` times, and let it finish.

    Args:
        arguments: of `fedem train`.
        out: run directory.
        cache: folder of compiled programs.
        moments: draws the moments and the signals.
        longest: most seconds until a kill.
        kills: most kills.
        tally: counts what is done.
        terminate: share of the kills that are SIGTERM; the others are SIGKILL.
        aimed: share of the kills that come shortly after a new checkpoint instead.

    Raises:
        Failed: the run could not be resumed.
    """
    for number in range(kills + 1):
        begun = (out / "config.json").exists()
        process = train(["--resume", str(out)] if begun else [*arguments, "--out", str(out)], cache)
        if begun:
            tally.resumes += 1
            tally.resumed_rounds += max(found(out / CHECKPOINT), default=0)
        if number == kills:
            to_its_end(process)
            return
        which = signal.SIGTERM if moments.random() < terminate else signal.SIGKILL
        within = longest
        if moments.random() < aimed:
            next_checkpoint(process, out / CHECKPOINT)
            within = SHORTLY
        if not killed(process, moments.uniform(0, within), which, tally):
            return


def apart(whole: Path, cut: Path) -> list[str]:
    """Names of what differs between an uninterrupted and an interrupted run.

    Compared bit by bit are the records without seconds, the counts of rho, the summary without
    times, every client's ranks, and all arrays of the last checkpoint.
    """
    differ = []
    for name in (METRICS, RHO):
        if (whole / name).exists() or (cut / name).exists():
            lines = [(folder / name).read_text().splitlines() for folder in (whole, cut)]
            ours, theirs = ([json.loads(line) | {"seconds": 0} for line in each] for each in lines)
            if ours != theirs:
                differ.append(name)
    summaries = [json.loads((folder / SUMMARY).read_text()) for folder in (whole, cut)]
    ours, theirs = ({k: v for k, v in each.items() if k not in TIMES} for each in summaries)
    if ours != theirs:
        differ.append(SUMMARY)
    if (whole / PER_CLIENT).read_bytes() != (cut / PER_CLIENT).read_bytes():
        differ.append(PER_CLIENT)
    last = [found(folder / CHECKPOINT) for folder in (whole, cut)]
    mine, other = (flat(read(folders[max(folders)]).arrays) for folders in last)
    for name in sorted(mine.keys() | other.keys()):
        if mine[name].tobytes() != other[name].tobytes():
            differ.append(name)
    return differ


def ratings(path: Path, draw: np.random.Generator) -> None:
    """Write the ratings of 8 to 39 users; half of the users like the even items, half the odd."""
    users, items = draw.integers(8, 40), draw.integers(50, 120)
    lines = []
    for user in range(users):
        size = draw.integers(10, 30)
        liked = (draw.permutation(items // 2)[:size] * 2 + user % 2).tolist()
        lines += [f"{user},{item},1,{time}" for time, item in enumerate(liked)]
    path.write_text("user,item,rating,timestamp\n" + "\n".join(lines) + "\n")


def random_run(draw: np.random.Generator, dataset: Path) -> tuple[str, list[str]]:
    """A random method, and random arguments of `fedem train` for it."""
    method = str(draw.choice(list(METHODS)))

    def one(*values: object) -> str:
        return str(values[draw.integers(len(values))])

    settings = {
        "dataset": str(dataset),
        "method": method,
        "protocol": one("leak-free", "paper", "paper-p"),
        "rounds": one(30, 60, 90),
        "seed": one(0, 1, 2),
        "eval-every": one(1, 1, 2, 3),
        "checkpoint-every": one(1, 2, 5),
        "dim": one(2, 4, 8),
        "local-epochs": one(1, 2),
        "batch-size": one(16, 64),
        "num-candidates": "9",
        "top-k": "5",
        "min-interactions": "5",
        "size-classes": one(1, 2),
        "block-size": one(0, 1, 3),
        "table-dtype": one("float32", "bfloat16"),
    }
    if method != "gpfedrec":
        settings["client-fraction"] = one(0.5, 1.0)
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return method, [*flags, "--per-client"]


def soak(options: Soak, folder: Path, tally: Tally) -> None:
    """Kill, resume and compare runs until the time is over."""
    until, cache, number = time.monotonic() + 60 * options.minutes, folder / "cache", 0
    while time.monotonic() < until:
        draw = np.random.default_rng((options.seed, number))
        number += 1
        here = folder / str(number)
        here.mkdir()
        ratings(here / "ratings.csv", draw)
        method, arguments = random_run(draw, here / "ratings.csv")
        print(f"{number}: {' '.join(arguments[2:])}", flush=True)
        tally.methods[method] += 1
        try:
            to_its_end(train([*arguments, "--out", str(here / "whole")], cache))
            begun = time.monotonic()
            kills = int(draw.integers(1, 6))
            survive(arguments, here / "cut", cache, draw, 12.0, kills, tally, aimed=0.8)
            differ = apart(here / "whole", here / "cut")
        except Diverged:
            differ, tally.diverged = [], tally.diverged + 1
            print("   diverged", flush=True)
        except Failed as failed:
            differ = [str(failed)]
        else:
            print(f"   survived, {time.monotonic() - begun:.0f} s", flush=True)
        tally.mismatches += [f"{' '.join(arguments)}: {name}" for name in differ]
        if not differ:
            shutil.rmtree(here)


def table(tally: Tally, minutes: float) -> str:
    """The tally in Markdown."""
    methods = ", ".join(f"{name} {count}" for name, count in sorted(tally.methods.items()))
    kills = ", ".join(f"{name} {count}" for name, count in sorted(tally.kills.items()))
    rows = [
        ("minutes", f"{minutes:.0f}"),
        ("runs, each compared with an uninterrupted one", str(tally.methods.total())),
        ("by method", methods),
        ("kills", f"{tally.kills.total()} ({kills})"),
        ("resumes", str(tally.resumes)),
        ("rounds taken from checkpoints", str(tally.resumed_rounds)),
        ("runs that diverge, not compared", str(tally.diverged)),
        ("mismatches", str(len(tally.mismatches))),
    ]
    lines = ["| what | figure |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join([*lines, *(f"- {each}" for each in tally.mismatches)]) + "\n"


def main() -> None:
    options = parse(Soak, "experiments/soak.py", sys.argv[1:])
    if options.minutes <= 0:
        raise UserError(f"minutes: {options.minutes:g} is out of range; give a number above 0.")
    tally, begun = Tally(), time.monotonic()
    folder = tempfile.mkdtemp(prefix="soak-")
    try:
        soak(options, Path(folder), tally)
    finally:
        if not tally.mismatches:
            shutil.rmtree(folder)
    text = table(tally, (time.monotonic() - begun) / 60)
    print(f"\n{text}")
    if options.out:
        put(Path(options.out), lambda path: path.write_text(text))
    if tally.mismatches:
        print(f"{folder} holds the runs that differ")
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)

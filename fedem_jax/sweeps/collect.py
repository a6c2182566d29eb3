"""Gathers the results of all shards of a sweep, or says which are missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fedem_jax.errors import UserError
from fedem_jax.runs.checks import check_untaken
from fedem_jax.storage.files import parse, read
from fedem_jax.storage.lock import holder
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.plans import ABOUT, PLAN, check_same
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.runner import in_line
from fedem_jax.sweeps.shards import SHARDS, Shard, Unfinished, check_division, shards_in


def check_shards(out: Path, sweep: Sweep, plan: dict[str, Any]) -> list[Shard]:
    """The shards in the folder of a sweep, in order; all are of this sweep and of one division.

    Raises:
        UserError: one is of another sweep or division, or the folder holds something else.
    """
    may_grow = sweep.may_grow()
    if (out / PLAN).exists():
        check_same(out, plan, may_grow)
    else:
        check_untaken(out)
    found = [shard for shard in shards_in(out) if (shard.folder(out) / PLAN).exists()]
    check_division(out, [*found, *([sweep.shard] if sweep.shard else [])])
    for shard in found:
        check_same(shard.folder(out), plan, may_grow)
    return found


def gather(
    out: Path, sweep: Sweep, plan: dict[str, Any], numbers: Collection[str]
) -> tuple[TrialResults, dict[str, Any]]:
    """The results of all shards, and where they ran: `device` and `versions`.

    Settings have the numbers that they have in one process.

    Args:
        out: folder of the sweep.
        sweep: the description.
        plan: all that the trials depend on.
        numbers: as `fedem_jax.sweeps.runner.arguments` gives them.

    Raises:
        Unfinished: a shard is missing or has not ended.
        UserError: there is none, or as `check_shards` says.
    """
    found = check_shards(out, sweep, plan)
    if not found:
        raise UserError(f"{out / SHARDS}: holds no shard; run --shard 1/n to n/n first.")
    results = TrialResults(sweep)
    if sweep.search != "optuna":
        results.settings = sweep.settings()
    for shard in found:
        part = TrialResults(sweep)
        part.read(shard.folder(out))
        results.take(part)
    every = [Shard(number, found[0].of) for number in range(1, found[0].of + 1)]
    trials = in_line(sweep, numbers) if sweep.search != "optuna" else []
    missing = {}
    for shard in every:
        own = shard.cut(trials)
        lacking = sum(trial not in results.curves for trial in own)
        if shard not in found:
            missing[shard] = f"{shard} is missing"
        elif busy := holder(shard.folder(out)):
            missing[shard] = f"at {shard} {busy} is at work"
        elif lacking:
            missing[shard] = f"{shard} lacks {lacking} of {len(own)} trials"
        elif not (shard.folder(out) / ABOUT).exists():
            missing[shard] = f"{shard} has not ended"
    if missing:
        said = "; ".join(missing.values())
        raise Unfinished(f"{out / SHARDS}: the best setting may be missing ({said})", [*missing])
    return results, _where([shard.folder(out) / ABOUT for shard in every])


def _where(paths: Sequence[Path]) -> dict[str, Any]:
    """Devices and versions of all shards; those that differ are joined by commas."""
    every = [parse(path, read(path)) for path in paths]
    names = dict.fromkeys(name for about in every for name in about["versions"])

    def joined(values: Sequence[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    return {
        "device": joined([about["device"] for about in every]),
        "versions": {
            name: joined([about["versions"].get(name, "") for about in every]) for name in names
        },
    }

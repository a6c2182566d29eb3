"""`make regimes`: where a client should stay alone, share with all, share with its group, or merge.

Trains FedEM on synthetic federations whose groups differ more and more, and whose clients know more
and more, and draws the winner of each cell. Cells are compared by HR@10 among all items. Step sizes
and round of each arm are those that are best on validation, by the mean over the seeds. Leads are
paired over all clients of all seeds.
"""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cells import Cell, boundary, federation
from regimes_map import draw
from trials import hits

from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse
from fedem_jax.config.fedem import FedEM
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.report.tables import Row, Table, in_markdown
from fedem_jax.storage.files import disk_errors

STEPS = ((0.1, 320.0), (0.3, 80.0))
"""Values of lr_embedding and lr_item_factor; each arm of a cell takes the better ones."""
ARMS: dict[str, dict[str, Any]] = {
    "local": {"merging": "0", "common_share": "0"},
    "replaced": {"merging": "replace", "common_share": "1"},
    "group": {"merging": "replace", "common_share": "0"},
    "merged": {"merging": "replace", "common_share": "fitted"},
}
"""Settings of each arm: own tables, one for all, one for each group, and that of the group drawn to
the one for all. The first three share a program."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Regimes:
    """Draw who wins, by heterogeneity and interactions of a client, and by groups and width.
    Writes regimes.csv, regimes.md and regimes.png."""

    heterogeneity: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5, 1.0)
    """Shares of the variance of the item vectors that groups have of their own."""
    interactions: tuple[int, ...] = (10, 20, 40, 80)
    """Interactions of each client, two held-out ones included."""
    groups: tuple[int, ...] = (3, 6, 12, 24)
    """Groups of the second map, at heterogeneity 0.3 and 20 interactions; empty: no such map. The
    first map has 12."""
    dims: tuple[int, ...] = (4, 8, 16)
    """Widths of the model in the second map; the first one has 8. The true width is 4 a group."""
    clients: int = 480
    """Clients of a federation."""
    items: int = 400
    """Items of a federation."""
    seeds: int = 3
    """Federations of each cell; each is also trained with its own seed."""
    rounds: int = 40
    """Rounds of all; every third is evaluated."""
    out: Path = HERE
    """Folder of the results."""


def measure(args: Sequence[str]) -> None:
    """Run everything, write it and draw it."""
    begun = time.perf_counter()
    options = parse(Regimes, "experiments/regimes/regimes.py", args)
    process.prepare_jax()
    size = (options.clients, options.items)
    first = [
        Cell(h, n, 12, 8, *size)
        for n, h in itertools.product(options.interactions, options.heterogeneity)
    ]
    second = [
        Cell(0.3, 20, groups, dim, *size)
        for groups, dim in itertools.product(options.groups, options.dims)
    ]
    results, found = run(first + second, options)
    command = f"python experiments/regimes/regimes.py {shlex.join(args)}".rstrip()
    seconds = time.perf_counter() - begun
    options.out.mkdir(parents=True, exist_ok=True)
    with disk_errors(options.out, "give another --out"):
        results.to_csv(options.out / "regimes.csv", index=False, float_format="%.5g")
        text = f"`{command}`, {seconds:.0f} s\n\n{in_markdown(table(found))}\n"
        (options.out / "regimes.md").write_text(text, encoding="utf-8")
        draw(found, len(first), options.seeds, options.out / "regimes.png")
    print(text)


def run(cells: Sequence[Cell], options: Regimes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each cell, arm and seed, with its test HR@10, steps and best round; and a row for
    each cell: mean of each arm, the winner, and its lead."""
    data = {(cell, seed): federation(cell, seed) for cell in cells for seed in range(options.seeds)}
    ends = [*range(3, options.rounds, 3), options.rounds]
    programs: dict[tuple, list] = {}
    for cell, seed in data:
        for arm, steps in itertools.product(ARMS, STEPS):
            kind = (cell.interactions, cell.dim, cell.groups, arm == "merged")
            programs.setdefault(kind, []).append((cell, seed, arm, steps))
    found = {}
    for keys in programs.values():
        trials = [
            (settings(cell, arm, steps, seed, options), data[cell, seed])
            for cell, seed, arm, steps in keys
        ]
        found |= zip(keys, hits(trials, ends), strict=True)
    rows, winners = [], []
    for cell in cells:
        chosen = {arm: best_of(cell, arm, found, ends, options) for arm in ARMS}
        rows += rows_of(cell, chosen, data, options)
        winners.append(winner_of(cell, chosen, rows[-1]))
    return pd.DataFrame(rows), pd.DataFrame(winners)


def settings(
    cell: Cell, arm: str, steps: tuple[float, float], seed: int, options: Regimes
) -> FedEM:
    """The settings of a trial."""
    return FedEM(
        rounds=options.rounds, seed=seed, dim=cell.dim, local_epochs=1, init_scale=0.1,
        local_optimiser="sgd", lr_embedding=steps[0], lr_item_factor=steps[1],
        aggregation="cohort", aggregation_fraction=1.0, **ARMS[arm],
    )  # fmt: skip


class Chosen(NamedTuple):
    """An arm of a cell at the steps and the round that are best on validation."""

    steps: tuple[float, float]
    round: int
    val: np.ndarray
    """[seeds] HR@10 among all items."""
    hits: np.ndarray
    """[seeds, clients] whether the test item is among the best 10."""


def best_of(cell: Cell, arm: str, found: dict, ends: Sequence[int], options: Regimes) -> Chosen:
    """Choose steps and round of an arm by the mean over the seeds."""
    seeds = range(options.seeds)
    every = np.array([[found[cell, seed, arm, steps] for seed in seeds] for steps in STEPS])
    curve = every[..., 0, :].mean(axis=(1, 3))  # [steps, rounds] on validation
    best, end = np.unravel_index(curve.argmax(), curve.shape)
    of_best = every[best, :, end].astype(float)  # [seeds, 2, clients]
    return Chosen(STEPS[best], ends[end], of_best[:, 0].mean(-1), of_best[:, 1])


def rows_of(cell: Cell, chosen: dict[str, Chosen], data: dict, options: Regimes) -> list[dict]:
    """The rows of a cell."""
    return [
        cell._asdict()
        | {
            "arm": arm, "seed": seed, "lr_embedding": best.steps[0],
            "lr_item_factor": best.steps[1], "round": best.round, "val_full": best.val[seed],
            "test_full": best.hits[seed].mean(),
            "popularity": popularity(data[cell, seed], 10)["test_full"]["hr@10"],
            "boundary": boundary(cell),
        }
        for arm, best in chosen.items()
        for seed in range(options.seeds)
    ]  # fmt: skip


def winner_of(cell: Cell, chosen: dict[str, Chosen], row: dict) -> dict:
    """The winner of a cell, its lead over the second, and that of `merged` over the best other.

    The errors are those of the paired difference over all clients of all seeds.
    """
    order = sorted(ARMS, key=lambda arm: -chosen[arm].hits.mean())
    others = [arm for arm in order if arm != "merged"]
    margin, error = lead(chosen[order[0]].hits, chosen[order[1]].hits)
    gain, gain_error = lead(chosen["merged"].hits, chosen[others[0]].hits)
    means = {arm: float(chosen[arm].hits.mean()) for arm in ARMS}
    return cell._asdict() | means | {
        "popularity": row["popularity"], "winner": order[0], "margin": margin, "error": error,
        "gain": gain, "gain_error": gain_error, "boundary": row["boundary"],
    }  # fmt: skip


def lead(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean of the differences over all clients, and its standard error."""
    gap = (one - other).ravel()
    return float(gap.mean()), float(gap.std(ddof=1) / len(gap) ** 0.5)


def table(found: pd.DataFrame) -> Table:
    """The winners as a table."""
    header = ["groups", "width", "interactions", "h", *ARMS, "popularity", "winner", "its lead",
              "merged over the best other", "boundary h"]  # fmt: skip
    rows = [
        Row([
            f"{row.groups}", f"{row.dim}", f"{row.interactions}", f"{row.heterogeneity:g}",
            *(f"{row[arm]:.3f}" for arm in ARMS), f"{row.popularity:.3f}", str(row.winner),
            f"{row.margin:.3f} ± {row.error:.3f}", f"{row.gain:+.3f} ± {row.gain_error:.3f}",
            f"{row.boundary:.3f}",
        ])
        for _, row in found.iterrows()
    ]  # fmt: skip
    return Table("", header, rows, align="r" * len(header))


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

"""`make regimes`: where a client should stay alone, share with all, or share with its group.

Trains FedEM on synthetic federations whose groups differ more and more, and whose clients know more
and more, and draws the winner of each cell. Cells are compared by HR@10 among all items. Step sizes
and round of each arm are those that are best on validation, by the mean over the seeds.
"""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from cells import Cell, boundary, federation, of_cohort
from regimes_map import draw
from trials import hits

from fedem_jax.cli import process
from fedem_jax.config.fedem import FedEM
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.report.tables import Row, Table, in_markdown
from fedem_jax.storage.files import disk_errors

STEPS = ((0.1, 320.0), (0.3, 80.0))
"""Values of lr_embedding and lr_item_factor; each arm of a cell takes the better ones."""
ARMS = {"local": "0", "replaced": "replace", "group": "replace"}
"""Way of merging of each arm. A group alone is a federation of its own that replaces."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Regimes:
    """Draw who wins, by heterogeneity and interactions of a client, and by groups and width.
    Writes regimes.csv, regimes.md and regimes.png."""

    heterogeneity: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """Shares of the variance of the item vectors that groups have of their own."""
    interactions: tuple[int, ...] = (10, 20, 40, 80)
    """Interactions of each client, two held-out ones included."""
    groups: tuple[int, ...] = ()
    """Groups of the second map, at its heterogeneity 0.25 and 40 interactions; empty: no such map.
    The first map has 4."""
    dims: tuple[int, ...] = ()
    """Widths of the model in the second map; the first one has 8. The true width is 4 a group."""
    clients: int = 240
    """Clients of a federation."""
    items: int = 300
    """Items of a federation."""
    seeds: int = 3
    """Federations of each cell; each is also trained with its own seed."""
    rounds: int = 30
    """Rounds of all; every third is evaluated."""
    out: Path = HERE
    """Folder of the results."""


def measure(args: Sequence[str]) -> None:
    """Run everything, write it and draw it."""
    begun = time.perf_counter()
    options = tyro.cli(Regimes, prog="experiments/regimes/regimes.py", args=args)
    process.prepare_jax()
    size = (options.clients, options.items)
    first = [
        Cell(h, n, 4, 8, *size)
        for n, h in itertools.product(options.interactions, options.heterogeneity)
    ]
    second = [
        Cell(0.25, 40, groups, dim, *size)
        for groups, dim in itertools.product(options.groups, options.dims)
    ]
    results = run(first + second, options)
    command = f"python experiments/regimes/regimes.py {shlex.join(args)}".rstrip()
    seconds = time.perf_counter() - begun
    options.out.mkdir(parents=True, exist_ok=True)
    with disk_errors(options.out, "give another --out"):
        results.to_csv(options.out / "regimes.csv", index=False, float_format="%.5g")
        found = winners(results)
        text = f"`{command}`, {seconds:.0f} s\n\n{in_markdown(table(found))}\n"
        (options.out / "regimes.md").write_text(text, encoding="utf-8")
        draw(found, len(first), options.seeds, options.out / "regimes.png")
    print(text)


def run(cells: Sequence[Cell], options: Regimes) -> pd.DataFrame:
    """A row for each cell, arm and seed: its test HR@10, steps and best round."""
    data = {(cell, seed): federation(cell, seed) for cell in cells for seed in range(options.seeds)}
    trials = {}
    for (cell, seed), whole in data.items():
        for arm, steps in itertools.product(ARMS, STEPS):
            parts = range(cell.groups) if arm == "group" else [-1]
            for part in parts:
                own = whole if part < 0 else of_cohort(whole, part)
                trials[cell, seed, arm, steps, part] = (
                    settings(cell, arm, steps, seed, options),
                    own,
                )
    ends = [*range(3, options.rounds, 3), options.rounds]
    programs: dict[tuple[int, int, int], list] = {}
    for key, (config, own) in trials.items():
        programs.setdefault((key[0].interactions, config.dim, own.num_clients), []).append(key)
    found = {}
    for keys in programs.values():
        found |= zip(keys, hits([trials[key] for key in keys], ends), strict=True)
    return pd.DataFrame(
        [row for cell in cells for row in of_cell(cell, data, found, ends, options)]
    )


def settings(
    cell: Cell, arm: str, steps: tuple[float, float], seed: int, options: Regimes
) -> FedEM:
    """The settings of a trial."""
    return FedEM(
        rounds=options.rounds, seed=seed, dim=cell.dim, local_epochs=1, init_scale=0.1,
        local_optimiser="sgd", lr_embedding=steps[0], lr_item_factor=steps[1], aggregation="avg",
        aggregation_fraction=1.0, merging=ARMS[arm],
    )  # fmt: skip


def of_cell(cell: Cell, data: dict, found: dict, ends: Sequence[int], options: Regimes) -> list:
    """The rows of a cell. `found` has the hits of each trial."""
    rows, seeds = [], range(options.seeds)
    for arm in ARMS:
        parts = range(cell.groups) if arm == "group" else [-1]
        curves = np.array([
            [np.concatenate([found[cell, seed, arm, steps, part] for part in parts], -1).mean(-1)
             for seed in seeds]
            for steps in STEPS
        ])  # [steps, seeds, rounds, 2]  # fmt: skip
        on_validation = curves[..., 0].mean(1)
        best, end = np.unravel_index(on_validation.argmax(), on_validation.shape)
        rows += [
            cell._asdict() | {
                "arm": arm, "seed": seed, "lr_embedding": STEPS[best][0],
                "lr_item_factor": STEPS[best][1], "round": ends[end],
                "val_full": curves[best, seed, end, 0], "test_full": curves[best, seed, end, 1],
                "popularity": popularity(data[cell, seed], 10)["test_full"]["hr@10"],
                "boundary": boundary(cell),
            }
            for seed in seeds
        ]  # fmt: skip
    return rows


def winners(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell: mean of each arm, the winner, and its margin over the second.

    The margin in standard errors is that of the difference, paired over the seeds.
    """
    rows = []
    for cell, part in results.groupby(list(Cell._fields), sort=False):
        by_seed = part.pivot(index="seed", columns="arm", values="test_full")[list(ARMS)]
        order = by_seed.mean().sort_values(ascending=False).index
        gap = by_seed[order[0]] - by_seed[order[1]]
        error = gap.std(ddof=1) / len(gap) ** 0.5
        rows.append(
            dict(zip(Cell._fields, cell, strict=True))
            | by_seed.mean().to_dict()
            | {
                "popularity": part["popularity"].mean(), "winner": order[0], "margin": gap.mean(),
                "error": error, "boundary": part["boundary"].iloc[0],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> Table:
    """The winners as a table."""
    header = ["groups", "width", "interactions", "h", *ARMS, "popularity", "winner", "margin",
              "boundary h"]  # fmt: skip
    rows = [
        Row([
            f"{row.groups}", f"{row.dim}", f"{row.interactions}", f"{row.heterogeneity:g}",
            *(f"{row[arm]:.3f}" for arm in ARMS), f"{row.popularity:.3f}", str(row.winner),
            f"{row.margin:.3f} ± {row.error:.3f}", f"{row.boundary:.3f}",
        ])
        for _, row in found.iterrows()
    ]  # fmt: skip
    return Table("", header, rows, align="r" * len(header))


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

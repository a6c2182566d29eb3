"""The quadratic federation of `experiments/theory.md`: closed forms and simulation.

Simulates clients sample by sample, prints the closed forms beside the simulation, and draws both.
The same seed gives the same numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from comparisons import (
    ALIKE_FITS,
    GRID,
    HELD_FITS,
    KINDS,
    SEEN_FITS,
    SLICES,
    Compared,
    Point,
    compare_fits,
    compare_points,
    compare_unequal,
)
from quadratic import TOGETHER, Estimate
from rich import box
from rich.console import Console
from rich.table import Table
from theory_plots import ERRORS, FITS, UNEQUAL, draw_fits, draw_slices, draw_unequal

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Simulate, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=400, help=f"federations per point, in steps of {TOGETHER}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    options = parser.parse_args()
    trials = TOGETHER * max(1, -(-options.trials // TOGETHER))
    key_points, key_fits, key_unequal = jax.random.split(jax.random.key(options.seed), 3)

    points = [Point()._replace(**{name: v}) for name, values in SLICES.items() for v in values]
    every = compare_points(key_points, (*points, *GRID), trials)
    slices = dict(in_slices(every))
    fits = compare_fits(key_fits, (*SEEN_FITS, *ALIKE_FITS, *HELD_FITS), trials)
    unequal = compare_unequal(key_unequal, trials)

    console = Console()
    console.print(table(points, every))
    console.print(agreement({
        "slices and grid, equal clients": every,
        "learned rho": fits.rho,
        "error at a learned rho": fits.learned,
        "the same, cut to [0, 1]": fits.clipped,
        "unequal clients, local": unequal.local,
        "unequal clients, replaced": unequal.replaced,
        "unequal clients, rho* of each": unequal.merged,
        "unequal clients, one rho": unequal.shared,
        "unequal clients, learned": unequal.learned,
    }))  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    draw_slices(slices, options.out / ERRORS)
    draw_fits(fits, options.out / FITS)
    draw_unequal(unequal, options.out / UNEQUAL)
    console.print(f"{trials} trials each. Pictures: {ERRORS}, {FITS}, {UNEQUAL} in {options.out}")


def in_slices(every: Compared) -> Iterator[tuple[str, Compared]]:
    """The slices that the comparison begins with, by name."""
    start = 0
    for name, values in SLICES.items():
        part = slice(start, start := start + len(values))
        form, (mean, error) = every
        yield name, Compared(form[:, part], Estimate(mean[:, part], error[:, part]))


def table(points: list[Point], compared: Compared) -> Table:
    """A row per point: closed form, below it the simulated mean with its standard error."""
    rows = Table(box=box.SIMPLE, title="Squared error per coordinate: closed form, simulated")
    for heading in ("tau²", "sigma", "n", "N", *KINDS):
        rows.add_column(heading, justify="right")
    form, (mean, error) = compared
    for place, point in enumerate(points):
        cells = [
            f"{form[kind, place]:.4f}\n{mean[kind, place]:.4f} ± {error[kind, place]:.4f}"
            for kind in range(len(KINDS))
        ]
        rows.add_row(*(f"{value:g}" for value in point), *cells)
    return rows


def agreement(compared: dict[str, Compared]) -> Table:
    """Distance of the simulations to the closed forms, in standard errors.

    If the forms hold, the root mean square is near 1, and one value in 22 lies beyond 2.
    """
    rows = Table(box=box.SIMPLE, title="Distance to the closed form, in standard errors")
    for heading in ("", "values", "root mean square", "beyond 2", "largest"):
        rows.add_column(heading, justify="right" if heading else "left")
    for name, one in compared.items():
        away = one.away.ravel()
        rows.add_row(
            name, str(away.size), f"{np.sqrt(np.mean(away**2)):.2f}",
            f"{np.mean(away > 2):.1%}", f"{away.max():.2f}",
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()

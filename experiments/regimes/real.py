"""Real data sets by the quantities of the map: draws of an item by a group, and h.

Clients of a data set are grouped: by k-means of their moves (`found.py`), or by the tag that they
used most. h comes from the uploads of one round (`heterogeneity.py`). It is compared with random
groups, and corrected by what the estimate says of the cells of the map, where h is planted. The map
then predicts what merging gains there. FedEM trains with these groups as cohorts in three ways: one
table for all, that of the group, and that of the group drawn to the one for all. Each takes the
step and the round that are best on validation among all items.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cells import Cell, federation
from found import averaging, grouped, moves_of
from heterogeneity import Estimate, Wanted, common_table, estimate, wanted
from regimes import ARMS, lead
from trials import hits

from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse
from fedem_jax.config.fedem import FedEM
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import load, read
from fedem_jax.evaluation.records import PARTS
from fedem_jax.report.tables import Row, Table, in_markdown
from fedem_jax.storage.files import disk_errors

HERE = Path(__file__).resolve().parent
TRAINED = ("replaced", "group", "merged")
"""Arms of the map; own tables are at chance on these data."""
FACTORS = (1 / 3, 1.0, 3.0)
"""Steps of the table that each arm tries, as multiples of that in `found.AVERAGED`."""
H, INTERACTIONS, GROUPS, SEEDS = (0.0, 0.15, 0.3, 0.5, 1.0), (10, 20, 40, 80), 12, 3
"""Cells of the map on which the estimate is checked, and federations of each."""

FOUND_ROUNDS = 20
"""Rounds whose moves are added up to find groups."""


@dataclass(frozen=True)
class Real:
    """Place real data sets on the map. Writes planted.csv, real.csv and real.md."""

    datasets: tuple[str, ...] = ("ml-100k", "filmtrust", "lastfm-2k")
    """Data sets; the rows of others stay in real.csv."""
    planted: bool = True
    """Whether to estimate h on the cells of the map; else planted.csv is read."""
    seeds: int = 3
    """Runs of each arm: candidates and initial parameters differ."""
    rounds: int = 30
    """Rounds of all; every third is evaluated."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    out: Path = HERE
    """Folder of the results."""


def measure(args: Sequence[str]) -> None:
    """Run everything, write it and print it."""
    options = parse(Real, "experiments/regimes/real.py", args)
    process.prepare_jax()
    with disk_errors(options.out, "give another --out"):
        options.out.mkdir(parents=True, exist_ok=True)
        if options.planted:
            save(planted_rows(), options.out / "planted.csv")
    planted = pd.read_csv(options.out / "planted.csv")
    command = f"python experiments/regimes/real.py {shlex.join(args)}".rstrip()
    path = options.out / "real.csv"
    for name in options.datasets:
        begun = time.perf_counter()
        rows = pd.DataFrame(of_data(name, options))
        rows = rows.assign(command=command, seconds=time.perf_counter() - begun)
        if path.exists():
            before = pd.read_csv(path)
            rows = pd.concat([before[before["data"] != name], rows])
        with disk_errors(options.out, "give another --out"):
            save(rows, path)
    text = written(planted, pd.read_csv(path))
    with disk_errors(options.out, "give another --out"):
        (options.out / "real.md").write_text(text, encoding="utf-8")
    print(text)


def save(rows: pd.DataFrame, path: Path) -> None:
    """Write rows as CSV."""
    rows.to_csv(path, index=False, float_format="%.5g")


# --- the estimate where h is known ----------------------------------------------------------------


def planted_rows() -> pd.DataFrame:
    """A row for each cell and seed: h as planted and as estimated."""
    rows = []
    for n, h, seed in itertools.product(INTERACTIONS, H, range(SEEDS)):
        cell = federation(Cell(h, n, GROUPS, 8, 480, 400), seed)
        config = FedEM(
            rounds=30, eval_every=3, seed=seed, dim=16, local_epochs=1, init_scale=0.1,
            local_optimiser="closed-form", lr_embedding=10.0, aggregation_fraction=1.0,
            weighting="uniform", merging="replace",
        )  # fmt: skip
        found = estimate(wanted(config, cell, common_table(config, cell)), cell.cohort)
        rows.append({"draws": draws(cell, GROUPS), "h": h, "seed": seed} | numbers(found))
    return pd.DataFrame(rows)


def draws(whole: Federation, groups: int) -> float:
    """Draws of an item by a group, on average."""
    return len(whole.items) / (groups * whole.num_items)


def numbers(found: Estimate) -> dict[str, float]:
    """An estimate as columns."""
    return {"estimate": found.h, "random": found.random, "error": found.error}


def corrected(planted: pd.DataFrame, number: float, estimate: float) -> float:
    """The planted h that has such an estimate at so many draws; between cells it is linear, beyond
    them as at the last one."""
    means = planted.groupby(["draws", "h"])["estimate"].mean().unstack("h")
    return float(np.interp(estimate, across(means, number), means.columns.to_numpy(float)))


def across(cells: pd.DataFrame, number: float) -> np.ndarray:
    """A row of cells at so many draws, linear in their logarithm.

    Args:
        cells: a row for each number of draws, a column for each h.
        number: of draws.
    """
    at = np.log(cells.index.to_numpy(float))
    return np.array([np.interp(np.log(number), at, cells[h]) for h in cells.columns])


def predicted(number: float, h: float) -> dict[str, float]:
    """HR@10 of each arm that the map has at so many draws and h."""
    cells = pd.read_csv(HERE / "regimes.csv")
    cells = cells[(cells["groups"] == GROUPS) & (cells["dim"] == 8)]
    number_of = cells["clients"] * (cells["interactions"] - 2) / (GROUPS * cells["items"])
    means = cells.assign(draws=number_of).groupby(["arm", "draws", "heterogeneity"])["test_full"]
    levels = means.mean().unstack("heterogeneity")
    planted = levels.columns.to_numpy(float)
    return {arm: float(np.interp(h, planted, across(levels.loc[arm], number))) for arm in TRAINED}


# --- groups of real clients -----------------------------------------------------------------------


def of_data(name: str, options: Real) -> list[dict]:
    """A row for each kind of groups of a data set."""
    config = averaging(name, options.rounds)
    federations = [
        load(name, seed=seed, data_dir=options.data_dir) for seed in range(options.seeds)
    ]
    whole = federations[0]
    want = wanted(config, whole, common_table(config, whole))
    moves = moves_of(config, whole, FOUND_ROUNDS)
    kinds = {"found": (grouped(moves, GROUPS), apart(want, moves))}
    if name == "lastfm-2k":
        tags = by_tag(whole, read(name, data_dir=options.data_dir).frame)
        kinds["tags"] = (tags, estimate(want, tags))
    del moves
    one = trained(config, federations, kinds["found"][0], "replaced")
    rows = []
    for kind, (group, measured) in kinds.items():
        arms = {"replaced": one} | {
            arm: trained(config, federations, group, arm) for arm in TRAINED[1:]
        }
        sizes = np.bincount(group)
        about = {
            "data": name, "cohorts": kind, "seeds": options.seeds, "groups": len(sizes),
            "smallest": sizes.min(), "largest": sizes.max(), "draws": draws(whole, len(sizes)),
        }  # fmt: skip
        rows.append(about | numbers(measured) | results(arms))
    return rows


def apart(want: Wanted, moves: np.ndarray) -> Estimate:
    """h of found groups, with groups found from half of the items and h taken from the others.

    The same uploads would say that groups differ which only agree by chance.
    """
    order = np.random.default_rng(0).permutation(moves.shape[1])
    halves = np.array_split(order, 2)
    found = [
        estimate(want.of_items(other), grouped(moves[:, half], GROUPS))
        for half, other in (halves, halves[::-1])
    ]
    return Estimate(*np.mean(found, axis=0))


def by_tag(whole: Federation, frame: pd.DataFrame) -> np.ndarray:
    """[C] the tag that each client used most, of the most used ones; the last group: none of them.

    Tags of a client on its own held-out items do not count.

    Args:
        whole: the federation.
        frame: a row for each tag that a user gave an item; the tag stands in place of the rating.
    """
    client = pd.Series(np.arange(whole.num_clients), whole.user_ids)
    rows = frame[frame["user"].isin(whole.user_ids)]
    held_out = pd.MultiIndex.from_arrays([
        np.tile(whole.user_ids, 2),
        whole.item_ids[np.concatenate([whole.val_item, whole.test_item])],
    ])  # fmt: skip
    rows = rows[~pd.MultiIndex.from_frame(rows[["user", "item"]]).isin(held_out)]
    known = rows["rating"].value_counts().index[: GROUPS - 1]
    times = np.zeros((whole.num_clients, GROUPS))
    rows = rows[rows["rating"].isin(known)]
    tag = known.get_indexer(rows["rating"])
    np.add.at(times, (client[rows["user"]].to_numpy(), tag), 1)
    times[:, -1] = 0.5
    return times.argmax(axis=1).astype(np.int32)


# --- training -------------------------------------------------------------------------------------


def trained(
    config: FedEM, federations: Sequence[Federation], group: np.ndarray, arm: str
) -> dict[str, Any]:
    """An arm at the step and round that are best on validation, by the mean over the seeds.

    Returns:
        `step`, `round`, and `hits` with shape [seeds, 2, C]: whether the test item is among the
        best 10 of its candidates, and of all items.
    """
    steps = [config.lr_embedding * factor for factor in FACTORS]
    trials = [
        (
            dataclasses.replace(
                config, seed=seed, lr_embedding=step, aggregation="cohort", **ARMS[arm]
            ),
            dataclasses.replace(whole, cohort=group),
        )
        for step in steps
        for seed, whole in enumerate(federations)
    ]
    ends = [*range(3, config.rounds, 3), config.rounds]
    found = hits(trials, ends, PARTS).reshape(len(steps), len(federations), len(ends), 4, -1)
    curve = found[:, :, :, PARTS.index("val_full")].mean(axis=(1, 3))  # [steps, rounds]
    best, end = np.unravel_index(curve.argmax(), curve.shape)
    tests = [PARTS.index(part) for part in ("test", "test_full")]
    return {
        "step": steps[best], "round": ends[end], "hits": found[best, :, end][:, tests].astype(float)
    }  # fmt: skip


def results(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Levels of all arms, and leads with their errors paired over the clients of all seeds."""
    row: dict[str, Any] = {}
    for arm, found in arms.items():
        row |= {f"{arm} step": found["step"], f"{arm} round": found["round"]}
    for part, suffix in ((0, "candidates"), (1, "all")):
        of = {arm: found["hits"][:, part] for arm, found in arms.items()}
        row |= {f"{arm} {suffix}": each.mean() for arm, each in of.items()}
        other = max(("replaced", "group"), key=lambda arm: of[arm].mean())
        row[f"gain {suffix}"], row[f"gain error {suffix}"] = lead(of["merged"], of[other])
    return row


# --- tables ---------------------------------------------------------------------------------------


def written(planted: pd.DataFrame, real: pd.DataFrame) -> str:
    """Tables of the estimate on the map, of the data sets, and of what the map predicts."""
    lines = [f"`{command}`, {part['seconds'].iloc[0]:.0f} s for {part['data'].iloc[0]}"
             for (command, _), part in real.groupby(["command", "data"], sort=False)]  # fmt: skip
    tables = [planted_table(planted), *real_tables(planted, real)]
    return "\n\n".join(["\n".join(f"- {line}" for line in lines), *map(in_markdown, tables)]) + "\n"


def planted_table(planted: pd.DataFrame) -> Table:
    """The estimate by draws and planted h: mean and standard deviation over the federations."""
    cells = planted.groupby(["draws", "h"])["estimate"].agg(["mean", "std"])
    planted_h = sorted(planted["h"].unique())
    rows = [
        Row([f"{number:.1f}", *(_pair(*cells.loc[number, h], digits=2) for h in planted_h)])
        for number in sorted(planted["draws"].unique())
    ]
    return Table("", ["draws", *(f"h = {h:g}" for h in planted_h)], rows)


def real_tables(planted: pd.DataFrame, real: pd.DataFrame) -> list[Table]:
    """Where the data sets are on the map, with what it predicts; and what came out."""
    where, out = [], []
    for _, row in real.iterrows():
        name = [row["data"], row["cohorts"]]
        h = corrected(planted, row["draws"], row["estimate"])
        levels = predicted(row["draws"], h)
        gain = levels["merged"] - max(levels["replaced"], levels["group"])
        where.append(Row([
            *name, f"{row['groups']}", f"{row['smallest']} to {row['largest']}",
            f"{row['draws']:.2f}", f"{row['estimate']:.3f}",
            _pair(row["random"], row["error"]), f"{h:.2f}", best(levels), f"{gain:+.3f}",
        ]))  # fmt: skip
        for part in ("all", "candidates"):
            reached = {arm: row[f"{arm} {part}"] for arm in TRAINED}
            out.append(Row([
                *name, {"all": "all items", "candidates": "candidates"}[part],
                *(f"{value:.3f}" for value in reached.values()), best(reached),
                _pair(row[f"gain {part}"], row[f"gain error {part}"], sign="+"), best(levels),
            ]))  # fmt: skip
    places = ["data", "cohorts", "groups", "clients of one", "draws", "h estimated",
              "random groups", "h corrected", "the map says",
              "merged over the best other"]  # fmt: skip
    reached = ["data", "cohorts", "among", *TRAINED, "winner", "merged over the best other",
               "the map said"]  # fmt: skip
    return [
        Table("", places, where, align="ll" + "r" * 8),
        Table("", reached, out, align="lll" + "r" * 6),
    ]


def best(levels: dict[str, float]) -> str:
    """The arm with the highest level."""
    return max(levels, key=lambda arm: levels[arm])


def _pair(mean: float, error: float, digits: int = 3, sign: str = "") -> str:
    return f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

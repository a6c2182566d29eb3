"""Groups found from uploads: how well planted ones are found, and what is left of the gain.

Trains one table for all and adds up the moves of each client: its upload less the table that it
started from. The principal scores of the moves are grouped by k-means, the best of several starts.
Then FedEM trains with these groups as cohorts, with declared ones where the data have some, and
with random ones. All use the settings that `fedem train` starts from on the embedded federation, or
those of `AVERAGED` on a real data set.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cells import WIDTH

from fedem_jax.analysis.bottleneck import Measured
from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.config.protocol import preset as rules_of
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import load
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic
from fedem_jax.evaluation.records import Headline
from fedem_jax.report.tables import Row, Table, in_markdown
from fedem_jax.runs.alternatives import compared
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run
from fedem_jax.server.clustering import k_means
from fedem_jax.storage.files import disk_errors

HERE = Path(__file__).resolve().parent
AXES, STARTS = 24, 10
"""Principal scores of the moves that count, and starts of k-means."""
TASTE = "groups of taste"
"""A federation like the embedded one, whose groups also differ in taste."""
AVERAGED: dict[str, dict[str, Any]] = {
    "ml-100k": {"dim": 16, "lr_embedding": 10.0, "confidence": 4.0, "regularization": 3.0},
    "ml-1m": {"dim": 16, "lr_embedding": 10.0, "confidence": 8.0, "regularization": 1.0},
    "filmtrust": {"lr_embedding": 3.0, "confidence": 16.0, "regularization": 3.0},
    "amazon-video": {"lr_embedding": 30.0, "confidence": 16.0, "regularization": 3.0},
    "lastfm-2k": {"lr_embedding": 30.0, "confidence": 16.0, "regularization": 0.3},
}
"""Numbers of the closed form where a server takes the average, best on validation. The tuned ones
are for a server that moves one table by Adam, and cohorts have several."""


@dataclass(frozen=True)
class Found:
    """Find groups from uploads, and train with them. Writes found.md."""

    datasets: tuple[str, ...] = ("synthetic", TASTE)
    """Data sets. `groups of taste`: like `synthetic`, but its groups also differ in taste."""
    groups: int = 12
    """Groups to find."""
    rounds: int = 20
    """Rounds whose moves are added up."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    out: Path = HERE
    """Folder of the results."""


def measure(args: Sequence[str]) -> None:
    """Run everything, write it and print it."""
    options = parse(Found, "experiments/regimes/found.py", args)
    process.prepare_jax()
    rows = [row for name in options.datasets for row in of_data(name, options)]
    header = ["data", "cohorts", "purity", "test HR@10", "lead", "of all items", "lead"]
    table = in_markdown(Table("", header, rows, align="llrrrrr"))
    command = f"python experiments/regimes/found.py {shlex.join(args)}".rstrip()
    text = f"`{command}`; lead: over one table for all\n\n{table}\n"
    with disk_errors(options.out, "give another --out"):
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "found.md").write_text(text, encoding="utf-8")
    print(text)


def of_data(name: str, options: Found) -> list[Row]:
    """A row for each kind of cohorts of a data set."""
    whole, config = data_of(name, options)
    one = dataclasses.replace(config, aggregation="avg")
    single, rng = run(one, whole), np.random.default_rng(0)
    kinds = {
        "found": grouped(moves_of(one, whole, options.rounds), options.groups),
        "random": rng.integers(0, options.groups, whole.num_clients).astype(np.int32),
    }
    declared = np.asarray(whole.cohort)
    if declared.max() > 0:
        kinds = {"declared": declared} | kinds
    drawn = dataclasses.replace(config, aggregation="cohort", common_share="fitted")
    rows = [Row([name, "none: one table", "", *levels(single.summary["headline"])])]
    for kind, cohort in kinds.items():
        result = run(drawn, dataclasses.replace(whole, cohort=cohort))
        lead = compared(kind, single, result)["lead"]
        pure = f"{purity(cohort, declared):.2f}" if declared.max() > 0 else ""
        cells = levels(result.summary["headline"], lead)
        rows.append(Row([name, kind, pure, *cells]))
    return rows


def levels(headline: Headline, lead: dict | None = None) -> list[str]:
    """HR@10 among the candidates and among all items, each with its lead over one table."""
    cells = []
    for part in ("test", "test_full"):
        mean, error = lead[part]["hr@10"] if lead else (0.0, 0.0)
        cells += [f"{headline[part]['hr@10']:.4f}", f"{mean:+.4f} ± {error:.4f}" if lead else ""]
    return cells


def averaging(name: str, rounds: int = 30, **settings: Any) -> FedEM:
    """FedEM on a data set, with a server that takes averages."""
    numbers = AVERAGED.get(name, {}) | {"server_optimiser": "none"}
    config = preset(dataset=name, rounds=rounds, eval_every=3, **numbers, **settings)
    assert isinstance(config, FedEM)
    return config


def data_of(name: str, options: Found) -> tuple[Federation, FedEM]:
    """A federation, and FedEM on it with a table that replaces those of the clients."""
    known = "synthetic" if name == TASTE else name
    config = averaging(known, keep="none", merging="replace")
    if name != TASTE:
        return load(name, data_dir=options.data_dir), config
    rows, _ = synthetic(
        600, 600, 12, (10, 60), dim=WIDTH, strength=3.0, individual=0.8, heterogeneity=0.3
    )
    return split(rows, rules_of("leak-free"), 0, TASTE), config


def moves_of(config: FedEM, whole: Federation, rounds: int) -> np.ndarray:
    """[C, I, D] sum of the moves of each client while one table serves all."""
    simulation = Simulation(Measured.of(config), whole)
    place, state = simulation.layout.place, simulation.init()
    total = 0.0
    for number in range(rounds):
        before = np.asarray(state.clients.items)[place]
        waits = np.asarray(state.clients.slot)[place] >= 0
        start = np.where(waits[:, None, None], np.asarray(state.server.items), before)
        state = simulation.segment(state, 1)(state, number).state
        total = total + (np.asarray(state.clients.items)[place] - start)
    return np.asarray(total)


def grouped(moves: np.ndarray, number: int) -> np.ndarray:
    """[C] group of each client, by k-means of the principal scores of the directions of moves.

    Args:
        moves: [C, I, D] of each client.
        number: of groups.
    """
    moves = moves.reshape(len(moves), -1)
    moves = moves - moves.mean(axis=0)
    moves /= np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-12)
    values, vectors = np.linalg.eigh(moves @ moves.T)
    scores = vectors[:, -AXES:] * np.sqrt(np.maximum(values[-AXES:], 0))
    cluster = jax.jit(k_means, static_argnames="number")
    tried = [
        np.asarray(cluster(jax.random.key(seed), jnp.asarray(scores), number=number))
        for seed in range(STARTS)
    ]
    return min(tried, key=lambda groups: spread(scores, groups)).astype(np.int32)


def spread(scores: np.ndarray, groups: np.ndarray) -> float:
    """Squared distance of the scores to the means of their groups."""
    parts = (scores[groups == group] for group in np.unique(groups))
    return sum(float(np.sum((part - part.mean(axis=0)) ** 2)) for part in parts)


def purity(groups: np.ndarray, planted: np.ndarray) -> float:
    """Share of the clients whose planted group is the most frequent one in their group."""
    most = (np.bincount(planted[groups == group]).max() for group in np.unique(groups))
    return sum(most) / len(planted)


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

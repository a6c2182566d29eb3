"""How the methods of a comparison did: over seeds, against FedEM, and at what cost."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fedem_jax.compare.results import MethodRuns
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import CentralMF
from fedem_jax.evaluation.statistics import holm, over_seeds, sign_flip_p

PUBLISHED = Path(__file__).with_name("published.csv")
"""Numbers of the literature."""

REFERENCES = (CentralMF.method,)
"""No federations: never marked as the best."""

Metric = tuple[str, str]
"""Part of a record and metric: `("test_full", "hr@10")`."""


class Difference(NamedTuple):
    """Of a contender to the reference, in the mean over clients and seeds."""

    value: float
    p: float
    """Of the paired test over clients."""
    p_holm: float
    """The same, corrected for the number of contenders."""


@dataclass(frozen=True)
class MethodSummary:
    """A line of the final table."""

    name: str
    method: str
    failed: str
    """Why there is no more to it; empty: there is."""
    scores: dict[Metric, list[float]]
    """Test values at the best validation round, one for each seed."""
    best_test: dict[Metric, list[float]]
    """The same at the round that is best on test."""
    against: dict[Metric, Difference]
    """Differences to the reference; empty for the reference itself, or without one."""
    chosen: tuple[int, int]
    """Earliest and latest best validation round."""
    rounds: int
    bytes_up: float
    """Sent by all clients together in a round."""
    bytes_down: float
    """Received by them."""
    seconds: float
    """Of a round with its evaluation, without compiling; the mean over seeds."""


def metrics_of(k: int) -> list[Metric]:
    """HR and NDCG among the sampled candidates, then among all items."""
    return [(part, f"{name}@{k}") for part in ("test", "test_full") for name in ("hr", "ndcg")]


def standings(entries: Sequence[MethodRuns]) -> tuple[str, list[MethodSummary]]:
    """The reference, which is the first FedEM that did not fail ("" if there is none), and a line
    for each contender.

    The test asks: given these trained models, could the difference come from which clients there
    are? Each client's metrics are averaged over seeds and paired with those of the reference
    (`sign_flip_p`); p-values are corrected over the contenders, for each metric by itself (`holm`).
    """
    done = [entry for entry in entries if not entry.failed]
    reference = next((entry for entry in done if _method(entry) == FedEM.method), None)
    metrics = metrics_of(done[0].summaries[0]["top_k"]) if done else []
    against: dict[str, dict[Metric, Difference]] = {}
    rivals = [entry for entry in done if entry is not reference]
    if reference and rivals:
        base = _by_client(reference, metrics)
        gaps = np.stack([_by_client(rival, metrics) - base for rival in rivals], axis=1)  # [C R M]
        p = sign_flip_p(gaps)
        corrected = np.stack([holm(column) for column in p.T], axis=1)
        for rival, *numbers in zip(rivals, gaps.mean(axis=0), p, corrected, strict=True):
            values = zip(metrics, *np.array(numbers).tolist(), strict=True)
            against[rival.name] = {metric: Difference(*value) for metric, *value in values}
    lines = [_standing(entry, metrics, against.get(entry.name, {})) for entry in entries]
    return reference.name if reference else "", lines


def reached(entry: MethodRuns, quality: float) -> float | None:
    """Rounds until the validation HR among the sampled candidates is at least `quality`, the mean
    over seeds; None if a seed never gets there."""
    metric, first = f"hr@{entry.summaries[0]['top_k']}", []
    for records in entry.records:
        there = [each["round"] for each in records if each["val"][metric] >= quality]
        if not there:
            return None
        first.append(there[0])
    return float(np.mean(first))


def published(dataset: str, protocol: str, path: Path = PUBLISHED) -> list[dict[str, str]]:
    """Rows of `published.csv` for a data set under the protocol of its line of programs."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["dataset"], row["protocol"]) == (dataset, protocol)]


def as_csv(lines: Sequence[MethodSummary], path: Path) -> None:
    """Write all numbers of the lines, unrounded; what a line lacks is empty."""
    rows = [_flat(line) for line in lines]
    header = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _standing(
    entry: MethodRuns, metrics: list[Metric], against: dict[Metric, Difference]
) -> MethodSummary:
    def each(of: str) -> dict[Metric, list[float]]:
        return {
            (part, name): [summary[of][part][name] for summary in entry.summaries]
            for part, name in metrics
        }

    def mean(value) -> float:
        return float(np.mean([value(summary) for summary in entry.summaries]))

    if entry.failed:
        nan = float("nan")
        return MethodSummary(
            entry.name, _method(entry), entry.failed, {}, {}, {}, (0, 0), 0, nan, nan, nan
        )
    chosen = [summary["headline"]["round"] for summary in entry.summaries]
    return MethodSummary(
        name=entry.name,
        method=_method(entry),
        failed="",
        scores=each("headline"),
        best_test=each("best_test"),
        against=against,
        chosen=(min(chosen), max(chosen)),
        rounds=entry.summaries[0]["rounds"],
        bytes_up=mean(lambda summary: summary["bytes_up"] / summary["rounds"]),
        bytes_down=mean(lambda summary: summary["bytes_down"] / summary["rounds"]),
        seconds=mean(lambda summary: summary["seconds_per_round"]),
    )


def _method(entry: MethodRuns) -> str:
    return entry.config.method if entry.config else entry.name.partition(":")[0]


def _by_client(entry: MethodRuns, metrics: list[Metric]) -> Float[np.ndarray, "C M"]:
    """Every client's metrics, averaged over the seeds."""
    columns = [f"{part} {name}" for part, name in metrics]
    return np.mean([clients[columns].to_numpy(np.float64) for clients in entry.clients], axis=0)


def _flat(line: MethodSummary) -> dict[str, Any]:
    row: dict[str, Any] = {"method": line.name, "failed": line.failed}
    if line.failed:
        return row
    row |= {"rounds": line.rounds, "seeds": len(next(iter(line.scores.values())))}
    for which, values in (("", line.scores), ("best_test: ", line.best_test)):
        for metric, each in values.items():
            name, spread = which + " ".join(metric), over_seeds(each)
            row |= {f"{name} mean": spread.mean, f"{name} sd": spread.sd}
    for metric, difference in line.against.items():
        name = " ".join(metric)
        row |= {
            f"{name} difference": difference.value,
            f"{name} p": difference.p,
            f"{name} p_holm": difference.p_holm,
        }
    return row | {
        "best_round_first": line.chosen[0],
        "best_round_last": line.chosen[1],
        "bytes_up_per_round": line.bytes_up,
        "bytes_down_per_round": line.bytes_down,
        "seconds_per_round": line.seconds,
    }

"""Results of the methods of a comparison: over seeds, against FedEM, and their cost."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fedem_jax.comparisons.results import MethodRuns
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import settings_of
from fedem_jax.evaluation.metrics import Metric, metrics_at
from fedem_jax.evaluation.statistics import holm, over_seeds, sign_flip_p

PUBLISHED = Path(__file__).with_name("published.csv")
"""Published results of the methods, from the literature."""


class Difference(NamedTuple):
    """Mean difference of a method to the reference, over clients and seeds."""

    value: float
    p: float
    """p-value of the paired test over clients."""
    p_holm: float
    """`p`, corrected for the number of methods."""


@dataclass(frozen=True)
class MethodSummary:
    """What a comparison reports of a method."""

    name: str
    method: str
    failed: str
    """Why it has no result; empty if it has one."""
    scores: dict[Metric, list[float]]
    """Test values at the best validation round, one for each seed."""
    best_test: dict[Metric, list[float]]
    """Test values at the round that is best on test."""
    against: dict[Metric, Difference]
    """Differences to the reference; empty for the reference itself, or without one."""
    chosen: tuple[int, int]
    """Earliest and latest best validation round."""
    rounds: int
    bytes_up: float
    """Bytes that all clients together upload in a round."""
    bytes_down: float
    """Bytes that all clients together download in a round."""
    seconds: float
    """Time of a round with its evaluation, without compiling; the mean over seeds."""
    central: bool = False
    """Whether all its data lie in one place. Such a method is a reference, never the best."""
    popularity: dict[Metric, list[float]] = field(default_factory=dict)
    """Test values of a ranking by popularity on the same splits, one for each seed; empty if a run
    of an earlier version lacks them."""


def standings(methods: Sequence[MethodRuns]) -> tuple[str, list[MethodSummary]]:
    """Name of the reference, and a summary of each method.

    The reference is the first FedEM that did not fail; "" if there is none. The test asks: given
    these trained models, could the difference come from the sample of clients? Each client's
    metrics are averaged over seeds and paired with those of the reference (`sign_flip_p`). p-values
    are corrected over the methods, separately for each metric (`holm`).
    """
    done = [runs for runs in methods if not runs.failed]
    reference = next((runs for runs in done if _method(runs) == FedEM.method), None)
    metrics = metrics_at(done[0].summaries[0]["top_k"]) if done else []
    against: dict[str, dict[Metric, Difference]] = {}
    rivals = [runs for runs in done if runs is not reference]
    if reference and rivals:
        base = _by_client(reference, metrics)
        gaps = np.stack([_by_client(rival, metrics) - base for rival in rivals], axis=1)  # [C R M]
        gaps = gaps[~np.isnan(base).any(axis=1)]  # clients without held-out items
        p = sign_flip_p(gaps)
        corrected = np.stack([holm(column) for column in p.T], axis=1)
        for rival, *numbers in zip(rivals, gaps.mean(axis=0), p, corrected, strict=True):
            values = zip(metrics, *np.array(numbers).tolist(), strict=True)
            against[rival.name] = {metric: Difference(*value) for metric, *value in values}
    summaries = [_summary(runs, metrics, against.get(runs.name, {})) for runs in methods]
    return reference.name if reference else "", summaries


def rounds_to(runs: MethodRuns, quality: float) -> float | None:
    """Rounds until the validation HR among the sampled candidates is at least `quality`.

    The result is the mean over seeds; None if one seed never reaches it.
    """
    metric, first = f"hr@{runs.summaries[0]['top_k']}", []
    for records in runs.records:
        reached = [record["round"] for record in records if record["val"][metric] >= quality]
        if not reached:
            return None
        first.append(reached[0])
    return float(np.mean(first))


def published(dataset: str, protocol: str, path: Path = PUBLISHED) -> list[dict[str, str]]:
    """Rows of `published.csv` for a data set and a protocol."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["dataset"], row["protocol"]) == (dataset, protocol)]


def as_csv(summaries: Sequence[MethodSummary], path: Path) -> None:
    """Write all numbers of the methods, unrounded; a number that a method lacks is left empty."""
    rows = [as_row(summary) for summary in summaries]
    header = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _summary(
    runs: MethodRuns, metrics: list[Metric], against: dict[Metric, Difference]
) -> MethodSummary:
    def values(of: str) -> dict[Metric, list[float]]:
        if any(of not in summary for summary in runs.summaries):
            return {}
        return {
            (part, name): [summary[of][part][name] for summary in runs.summaries]
            for part, name in metrics
        }

    def mean_per_round(cost: str) -> float:
        each = [summary[cost] / summary["rounds"] for summary in runs.summaries]
        return float(np.mean(each))

    method = _method(runs)
    if runs.failed:
        nan = float("nan")
        return MethodSummary(runs.name, method, runs.failed, {}, {}, {}, (0, 0), 0, nan, nan, nan)
    chosen = [summary["headline"]["round"] for summary in runs.summaries]
    return MethodSummary(
        name=runs.name,
        method=method,
        failed="",
        scores=values("headline"),
        best_test=values("best_test"),
        against=against,
        chosen=(min(chosen), max(chosen)),
        rounds=runs.summaries[0]["rounds"],
        bytes_up=mean_per_round("bytes_up"),
        bytes_down=mean_per_round("bytes_down"),
        seconds=float(np.mean([summary["seconds_per_round"] for summary in runs.summaries])),
        central=settings_of(method).central,
        popularity=values("popularity"),
    )


def _method(runs: MethodRuns) -> str:
    return runs.config.method if runs.config else runs.name.partition(":")[0]


def _by_client(runs: MethodRuns, metrics: list[Metric]) -> Float[np.ndarray, "C M"]:
    """Every client's metrics, averaged over the seeds."""
    columns = [f"{part} {name}" for part, name in metrics]
    return np.mean([clients[columns].to_numpy(np.float64) for clients in runs.clients], axis=0)


def as_row(summary: MethodSummary) -> dict[str, Any]:
    """All numbers of a method, unrounded, by the names of the columns of table.csv."""
    row: dict[str, Any] = {"method": summary.name, "failed": summary.failed}
    if summary.failed:
        return row
    row |= {"rounds": summary.rounds, "seeds": len(next(iter(summary.scores.values())))}
    for which, values in (("", summary.scores), ("best_test: ", summary.best_test)):
        for metric, of_seeds in values.items():
            name, spread = which + " ".join(metric), over_seeds(of_seeds)
            row |= {f"{name} mean": spread.mean, f"{name} sd": spread.sd}
    for metric, difference in summary.against.items():
        for column, number in zip(("difference", "p", "p_holm"), difference, strict=True):
            row[f"{' '.join(metric)} {column}"] = number
    return row | {
        "best_round_first": summary.chosen[0],
        "best_round_last": summary.chosen[1],
        "bytes_up_per_round": summary.bytes_up,
        "bytes_down_per_round": summary.bytes_down,
        "seconds_per_round": summary.seconds,
    }

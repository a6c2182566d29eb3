"""The numbers of a bottleneck study: means with intervals, and what replacing costs a client."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.analysis.bottleneck import STAGES, Bottleneck
from fedem_jax.evaluation.metrics import hit_rate, ndcg
from fedem_jax.evaluation.statistics import bootstrap_interval
from fedem_jax.units import in_span

RESAMPLES = 2000


class Figures(NamedTuple):
    """Mean over clients, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def interval(self, form: str = ".4f") -> str:
        """The interval, `low to high`."""
        return in_span(self.low, self.high, form)

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} ({self.interval(form)})"


class Line(NamedTuple):
    """A least-squares line over the clients, with its 95 % bootstrap band."""

    slope: Figures
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    clients: int


def late(study: Bottleneck) -> pd.DataFrame:
    """The last third of the rounds."""
    return study.rounds[study.rounds["round"] > study.config.rounds * 2 // 3]


def by_client(study: Bottleneck) -> pd.DataFrame:
    """A row for each client that was aggregated in the last third of the rounds.

    It adds the client's mean loss and quality with each table over those rounds.
    """
    rounds, k = late(study), study.config.top_k
    columns = {"client": rounds["client"]}
    for stage in STAGES:
        rank = rounds[f"rank {stage}"].to_numpy()
        columns[f"hr {stage}"] = hit_rate(rank, k)
        columns[f"ndcg {stage}"] = ndcg(rank, k)
        columns[f"loss {stage}"] = rounds[f"loss {stage}"]
    means = pd.DataFrame(columns).groupby("client").mean()
    return study.clients.join(means, how="inner")


def summarised(study: Bottleneck) -> dict[str, Any]:
    """All figures of the table, by stage, and the slopes of the drops."""
    clients = by_client(study)
    stages = {
        stage: {name: _figures(clients[f"{name} {stage}"]) for name in ("hr", "ndcg", "loss")}
        | {"distance": _figures(study.clients[f"distance {stage}"].dropna())}
        for stage in STAGES
    }
    slopes = {"loss": {}, "ndcg": {}}
    for (drop, cause), line in lines_of(clients).items():
        slopes[drop][cause] = line.slope
    setting = {
        "dataset": study.federation.name,
        "protocol": study.federation.protocol.name,
        "fingerprint": study.federation.fingerprint,
        "rounds": study.config.rounds,
        "seed": study.config.seed,
        "aggregation_fraction": study.config.aggregation_fraction,
        "clients_looked_at": len(clients),
        "optimum_settled_to": study.settled,
    }
    return setting | {"stages": stages, "slopes": slopes}


def lines_of(clients: pd.DataFrame) -> dict[tuple[str, str], Line]:
    """Least-squares lines of what replacing costs a client, by cost and cause.

    Costs are in loss and in NDCG. Causes are its heterogeneity and the logarithm of its history.
    """
    return {
        (drop, cause): fitted(*points(clients, drop, cause))
        for drop in ("loss", "ndcg")
        for cause in ("heterogeneity", "history")
    }


def points(clients: pd.DataFrame, drop: str, cause: str) -> tuple[np.ndarray, np.ndarray]:
    """x: a cause; y: what replacing costs each client, added loss or lost NDCG."""
    sign = 1 if drop == "loss" else -1
    y = sign * (clients[f"{drop} replaced"] - clients[f"{drop} local"])
    x = clients[cause] if cause == "heterogeneity" else np.log10(clients[cause].clip(lower=1))
    finite = np.isfinite(x) & np.isfinite(y)
    return x[finite].to_numpy(), y[finite].to_numpy()


def fitted(x: np.ndarray, y: np.ndarray, seed: int = 0) -> Line:
    """A least-squares line. Its band comes from drawing clients with replacement."""
    at = np.linspace(x.min(), x.max(), 50)
    if len(x) < 3 or np.ptp(x) == 0:
        nans = np.full(len(at), np.nan)
        return Line(Figures(np.nan, np.nan, np.nan), at, nans, nans, nans, len(x))
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(x), size=(RESAMPLES, len(x)))
    slopes, heights = _least_squares(x[draws], y[draws])
    slope, height = _least_squares(x[None], y[None])
    band = np.quantile(heights[:, None] + slopes[:, None] * at, [0.025, 0.975], axis=0)
    low, high = np.quantile(slopes, [0.025, 0.975])
    line, figures = height[0] + slope[0] * at, Figures(float(slope[0]), float(low), float(high))
    return Line(figures, at, line, band[0], band[1], len(x))


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of each row."""
    centred = x - x.mean(axis=1, keepdims=True)
    spread = np.maximum((centred**2).sum(axis=1), np.finfo(float).tiny)
    slope = (centred * y).sum(axis=1) / spread
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)


def _figures(values: pd.Series) -> Figures:
    low, high = bootstrap_interval(values.to_numpy())
    return Figures(float(values.mean()), float(low), float(high))

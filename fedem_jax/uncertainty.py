"""How far a reported number may be off: over the clients of one run, and over seeds.

Both intervals answer narrow questions. The bootstrap asks how the mean would move with other
clients of the same kind, given the trained models; the spread over seeds asks how it moves with
other candidates, initial parameters and draws, given the clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fedem_jax.errors import UserError

_CHUNK = 2**20
"""Clients drawn at once, over all resamples of a chunk: 8 MB an array."""


def bootstrap_interval(
    values: Float[np.ndarray, "C *M"], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "2 *M"]:
    """Percentile bootstrap interval (Efron, 1979) of a mean over clients: its two ends.

        m_b = 1/C sum_u w_bu v_u,   w_b ~ Multinomial(C; 1/C, ..., 1/C),   b = 1..resamples
        interval = the (1 -+ level) / 2 quantiles of m

    Clients are drawn, not values, so that several metrics of the same clients move together. If
    all values are equal the interval has no width, whatever the number of clients.

    Args:
        values: one per client, or one per client and metric; in the unit of the interval.
        level: probability that such an interval holds the true mean, nearly so for many clients.
        resamples: b; the ends have a Monte Carlo error of their own, a few per cent of the width.
        seed: of the resampling alone; the same seed gives the same interval.

    Raises:
        UserError: there is no client.
    """
    values = np.asarray(values, np.float64)
    clients = len(values)
    if clients == 0:
        raise UserError("an interval over no client is undefined; give a federation with clients.")
    draw, means = np.random.default_rng(seed), []
    for chunk in _chunks(resamples, most=max(1, _CHUNK // clients)):
        drawn = draw.integers(clients, size=(chunk, clients))
        cells = drawn + clients * np.arange(chunk)[:, None]
        weight = np.bincount(cells.ravel(), minlength=chunk * clients).reshape(chunk, clients)
        means.append(weight @ values / clients)
    return np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)


def error_over_clients(rate: float, clients: int) -> float:
    """Standard error of a hit rate over so many clients: sqrt(r (1 - r) / C)."""
    return (rate * (1 - rate) / clients) ** 0.5


class Spread(NamedTuple):
    """Runs that differ in nothing but the seed, as one number."""

    mean: float
    sd: float
    """Standard deviation of single runs, with n - 1 in the denominator; NaN for a single run."""
    n: int
    """Runs."""


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and number of a metric's values, one per seed.

    sd^2 = sum_s (v_s - mean)^2 / (n - 1).  It is the spread of single runs, in the metric's unit;
    the mean itself is known sqrt(n) times better.

    Raises:
        UserError: there is no value.
    """
    if len(values) == 0:
        raise UserError("a mean over no seed is undefined; give at least one run.")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(np.mean(values)), sd, len(values))


def _chunks(total: int, most: int) -> list[int]:
    """`total` cut into pieces of `most` and a rest."""
    return [min(most, total - start) for start in range(0, total, most)]

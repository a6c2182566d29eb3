"""Uncertainty of a reported number, and tests of differences between methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fedem_jax.errors import UserError

SIGNS_AT_ONCE = 2**23
"""Signs drawn at once: 64 MB as float64."""
CLIENTS_AT_ONCE = 2**20
"""Clients drawn at once, over all resamples of a chunk: 8 MB an array."""


def sign_flip_p(
    differences: Float[np.ndarray, "C *M"], resamples: int = 19_999, seed: int = 0
) -> Float[np.ndarray, "*M"]:
    """Two-sided p-value of a mean paired difference, by the sign-flip permutation test (Fisher,
    1935).

        t_b = | sum_u s_bu d_u |,   s_bu = +-1 with probability 1/2,   b = 1..resamples
        p = (1 + #{b : t_b >= | sum_u d_u |}) / (1 + resamples)

    If the two methods are exchangeable for every client, all signs are equally likely, whatever the
    distribution. So hits need no approximation, although they are 0 or 1 and mostly tie. The test
    concerns the mean that is reported; Wilcoxon's rank test does not. Signs are drawn per client,
    so that several metrics of the same clients share them.

    Args:
        differences: d, one per client, or one per client and metric.
        resamples: number of sign draws; the smallest p is 1 / (1 + resamples).
        seed: of the signs; the same seed gives the same p.

    Raises:
        UserError: there is no client.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) == 0:
        raise UserError("a test over no client is undefined; give a federation with clients.")
    flat = differences.reshape(len(differences), -1)
    flat = flat[flat.any(axis=1)]  # a zero has no sign
    rounding = 1e-9 * np.abs(flat).sum(axis=0)
    observed = np.abs(flat.sum(axis=0)) - rounding
    draw, reached = np.random.default_rng(seed), np.ones(flat.shape[1])
    most = max(1, SIGNS_AT_ONCE // max(1, len(flat)))
    for start in range(0, resamples, most):
        size = (min(most, resamples - start), len(flat))
        signs = 2.0 * draw.integers(0, 2, size, np.int8) - 1
        reached += (np.abs(signs @ flat) >= observed).sum(axis=0)
    return (reached / (1 + resamples)).reshape(differences.shape[1:])


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """p-values corrected for their number m by Holm's step-down rule (1979).

    In ascending order, p'_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)). Rejecting those below a
    level keeps the probability of any false rejection at that level, whatever their dependence.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, stepped)
    return corrected


def bootstrap_interval(
    values: Float[np.ndarray, "C *M"], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "2 *M"]:
    """Percentile bootstrap interval (Efron, 1979) of a mean over clients: its two ends.

        m_b = 1/C sum_u w_bu v_u,   w_b ~ Multinomial(C; 1/C, ..., 1/C),   b = 1..resamples
        interval = the (1 -+ level) / 2 quantiles of m

    Clients are drawn, not values, so that several metrics of the same clients vary together. If
    all values are equal the interval has no width, whatever the number of clients.

    Args:
        values: one per client, or one per client and metric; in the unit of the interval.
        level: coverage of the true mean, approximate and better for many clients.
        resamples: number of draws; the ends vary by a few per cent of the width with the seed.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        UserError: there is no client.
    """
    values = np.asarray(values, np.float64)
    clients = len(values)
    if clients == 0:
        raise UserError("an interval over no client is undefined; give a federation with clients.")
    draw, means = np.random.default_rng(seed), []
    most = max(1, CLIENTS_AT_ONCE // clients)
    for start in range(0, resamples, most):
        chunk = min(most, resamples - start)
        cells = draw.integers(clients, size=(chunk, clients)) + clients * np.arange(chunk)[:, None]
        weight = np.bincount(cells.ravel(), minlength=chunk * clients).reshape(chunk, clients)
        means.append(weight @ values / clients)
    return np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)


def error_over_clients(rate: float, clients: int) -> float:
    """Standard error of a hit rate over C clients: sqrt(r (1 - r) / C)."""
    return (rate * (1 - rate) / clients) ** 0.5


class Spread(NamedTuple):
    """Mean and spread of a metric over runs that differ only in their seed."""

    mean: float
    sd: float
    """Standard deviation of single runs, with n - 1 in the denominator; NaN for a single run."""
    n: int
    """Number of runs."""


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and number of a metric's values, one per seed.

    sd^2 = sum_s (v_s - mean)^2 / (n - 1), the spread of single runs in the metric's unit. The
    standard error of the mean is sd / sqrt(n).

    Raises:
        UserError: there is no value.
    """
    if len(values) == 0:
        raise UserError("a mean over no seed is undefined; give at least one run.")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(np.mean(values)), sd, len(values))

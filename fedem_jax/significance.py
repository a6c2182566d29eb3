"""Is one method better than another on the same clients? A paired test, and its correction."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedem_jax.errors import UserError

_CHUNK = 2**23
"""Signs drawn at once: 64 MB as float64."""


def sign_flip_p(
    differences: Float[np.ndarray, "C *M"], resamples: int = 19_999, seed: int = 0
) -> Float[np.ndarray, "*M"]:
    """Two-sided p-value of a mean paired difference, by the sign-flip permutation test (Fisher,
    1935).

        t_b = | sum_u s_bu d_u |,   s_bu = +-1 with probability 1/2,   b = 1..resamples
        p = (1 + #{b : t_b >= | sum_u d_u |}) / (1 + resamples)

    Under the hypothesis that the names of the two methods mean nothing to a client, all signs are
    equally likely, whatever the distribution; hits, which are 0 or 1 and mostly tie, need no
    approximation. It tests the mean that is reported, which Wilcoxon's ranks do not. Signs are
    drawn per client, so that several metrics of the same clients share them.

    Args:
        differences: d, one per client, or one per client and metric.
        resamples: the smallest p is 1 / (1 + resamples).
        seed: of the signs alone; the same seed gives the same p.

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
    most = max(1, _CHUNK // max(1, len(flat)))
    for start in range(0, resamples, most):
        size = (min(most, resamples - start), len(flat))
        signs = 2.0 * draw.integers(0, 2, size, np.int8) - 1
        reached += (np.abs(signs @ flat) >= observed).sum(axis=0)
    return (reached / (1 + resamples)).reshape(differences.shape[1:])


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """p-values corrected for their number m by Holm's step-down rule (1979): rejecting those below
    a level makes even one false rejection no likelier than that level, however they depend.

    In ascending order, p'_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)).
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, stepped)
    return corrected

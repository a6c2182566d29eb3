"""Expected errors of a quadratic federation; `theory.md` (one folder up) derives every line.

The optimum of client u is theta_u = theta + b_u, Var b_u = tau^2. Its local estimate is local =
theta_u + e_u, Var e_u = s. The aggregate is a local + (1 - a) others; a is the client's own weight.
The error of `others` has variance V and is independent of e_u. Errors are mean squares per
coordinate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.stats import chi2, norm

Numbers = Float[np.ndarray, "..."] | float
QUANTILES = 2000
"""Points of the midpoint rule over the length of others - local."""


class Moments(NamedTuple):
    """Second moments of a client's local estimate and of the others' mean, per coordinate."""

    local: Numbers
    """s = sigma^2 / n_u, error of the local estimate."""
    others: Numbers
    """V, error of the aggregate without the client's own part."""
    own: Numbers
    """a, weight of the client's own estimate in the aggregate, in [0, 1)."""

    @property
    def gap(self) -> Numbers:
        """S = s + V, mean square of others - local."""
        return self.local + self.others

    @property
    def share(self) -> Numbers:
        """kappa* = s / S, best weight of the others (Eq. 4)."""
        return self.local / self.gap


class Evidence(NamedTuple):
    """The m samples that rho is fitted on."""

    noise: Numbers
    """sigma^2 / m, error of their mean."""
    seen: Numbers
    """omega, the share of them that the local estimate was trained on, in [0, 1]."""


def moments(
    samples: Num[np.ndarray, " N"], weights: Float[np.ndarray, " N"], tau: float, sigma: float
) -> Moments:
    """Moments of every client, for any sizes n_u and weights that sum to 1 (Eq. 2)."""
    local = sigma**2 / samples
    parts = weights**2 * (tau**2 + local)
    return Moments(local, tau**2 + (parts.sum() - parts) / (1 - weights) ** 2, weights)


def equal_clients(samples: Numbers, clients: Numbers, tau: Numbers, sigma: Numbers) -> Moments:
    """Moments of a client, if all have equal samples and weights; arguments broadcast."""
    local = sigma**2 / samples
    return Moments(local, tau**2 + (tau**2 + local) / (clients - 1), 1 / clients)


def error_at(client: Moments, rho: Numbers) -> Numbers:
    """Error of local + rho (aggregate - local) with a fixed rho (Eq. 3). 0: local, 1: replaced."""
    kappa = (1 - client.own) * rho
    return (1 - kappa) ** 2 * client.local + kappa**2 * client.others


def best_rho(client: Moments) -> Numbers:
    """rho*, cut to at most 1 (Eq. 4); with sample shares as weights it never exceeds 1."""
    return np.minimum(client.share / (1 - client.own), 1)


def shared_rho(clients: Moments) -> Numbers:
    """The best rho that all clients (or rows) on the last axis share (Eq. 6)."""
    taken = 1 - clients.own
    best = np.sum(taken * clients.local, -1) / np.sum(taken**2 * clients.gap, -1)
    return np.minimum(best, 1)


def learned_rho(client: Moments, evidence: Evidence, width: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of a rho fitted without bounds (Eq. 8).

    The standard deviation needs a width of at least 3.
    """
    mean = (1 - evidence.seen) * client.share
    sd = np.sqrt(_spread(client, evidence)[0] / (client.gap * (width - 2)))
    return mean / (1 - client.own), sd / (1 - client.own)


def learned_error(client: Moments, evidence: Evidence, width: Numbers) -> Numbers:
    """Error of the estimate merged at a rho that was fitted without bounds (Eq. 9).

    Args:
        width: J, number of coordinates that share the rho.
    """
    variance, covariance = _spread(client, evidence)
    bias = evidence.seen * client.share
    return best_error(client) + bias**2 * client.gap + (variance + 2 * covariance) / width


def clipped_error(
    client: Moments, evidence: Evidence, width: Numbers, *, exact: bool = True
) -> Numbers:
    """Error of the estimate merged at a fitted rho that is cut to [0, 1] (Eq. 11).

    Args:
        exact: whether to integrate over the length of others - local, by a midpoint rule over the
            quantiles of chi squared. Else its mean square is used (delta method, error of order
            1/J^2).
    """
    client = Moments(*(np.asarray(value)[..., None] for value in client))
    evidence = Evidence(*(np.asarray(value)[..., None] for value in evidence))
    width = np.asarray(width)[..., None]
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES
    length = client.gap * (chi2.ppf(places, width) if exact else width)  # |others - local|^2
    variance, covariance = _spread(client, evidence)
    sd = np.sqrt(np.maximum(variance, 0) / length) + 1e-12  # rho is certain if omega = 1, m = n
    mean, highest = (1 - evidence.seen) * client.share, 1 - client.own
    low, high = -mean / sd, (highest - mean) / sd
    inside = norm.cdf(high) - norm.cdf(low)
    off = mean - client.share
    square = (
        client.share**2 * norm.cdf(low)
        + (highest - client.share) ** 2 * norm.sf(high)
        + off**2 * inside
        + 2 * off * sd * (norm.pdf(low) - norm.pdf(high))
        + sd**2 * (inside + low * norm.pdf(low) - high * norm.pdf(high))
    )
    return (best_error(client) + (length * square + 2 * covariance * inside) / width).mean(-1)


def best_error(client: Moments) -> Numbers:
    """R* = s V / S, error of the estimate merged at rho*, if rho* is within [0, 1] (Eq. 5)."""
    return client.local * client.others / client.gap


def best_held_share(client: Moments, width: Numbers) -> Numbers:
    """Share of the samples to hold out for fitting rho, for small shares (Eq. 13)."""
    return 1 / ((1 - client.share) * np.sqrt(width))


def _spread(client: Moments, evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Var z' and Cov(z, z') of Eq. 7."""
    fresh = 1 - evidence.seen
    variance = (
        evidence.noise
        + (1 - 2 * evidence.seen) * client.local
        - fresh**2 * client.share * client.local
    )
    return variance, -fresh * best_error(client)

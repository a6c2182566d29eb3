"""The federations that are simulated, and the closed form of each outcome."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from closed_forms import (
    Evidence,
    Moments,
    best_error,
    best_rho,
    clipped_error,
    equal_clients,
    error_at,
    learned_error,
    learned_rho,
    moments,
    shared_rho,
)
from quadratic import Estimate, Federation, over_trials, simulate

WIDTH = 32
"""J, coordinates that share a rho."""
HELD = 4
"""Samples held out for fitting rho, beside the training samples."""
KINDS = ("local", "replaced", "merged, rho*", "learned, held out", "learned, training")


class Point(NamedTuple):
    """A federation of clients with equally many samples."""

    tau2: float = 1 / 8
    sigma: float = 1.0
    samples: int = 8
    clients: int = 8


SLICES: dict[str, tuple[Any, ...]] = {
    "tau2": (1 / 128, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1),
    "sigma": (0.25, 0.5, 1.0, 1.5, 2.0, 3.0),
    "samples": (1, 2, 4, 8, 16, 32),
    "clients": (2, 8, 32, 128),
}
"""Slices: one number of the base point varies, the others are fixed."""
GRID = tuple(
    Point(*values)
    for values in itertools.product((0.0, 1 / 8, 1.0), (0.5, 1.0, 2.0), (2, 8, 32), (2, 8, 32))
)
SIZES = np.repeat(2 ** np.arange(7), 2)
"""Samples of the clients of the unequal federation."""
SPREADS = (1 / 64, 1 / 8, 1)
"""tau^2 of the unequal federations."""


class Compared(NamedTuple):
    """A closed form and what was simulated for it, of the same shape."""

    form: np.ndarray
    simulated: Estimate

    @property
    def away(self) -> np.ndarray:
        """Distance in standard errors."""
        return self.simulated.away_from(self.form)


def federations(
    samples: np.ndarray, weights: Any, tau2: Any, sigma: Any, fitted: Any, reused: Any, rho: Any,
    width: Any = WIDTH,
) -> Federation:  # fmt: skip
    """Federations stacked over the points P.

    Args:
        samples: [P N] training samples.
        weights: of the local estimates, broadcast to [P N].
        tau2: variance of the optima, broadcast to [P].
        sigma: standard deviation of a sample, broadcast to [P].
        fitted: samples that rho is fitted on, broadcast to [P E N].
        reused: those of them that were trained on, broadcast to [P E N].
        rho: [P R N] fixed weights.
        width: coordinates of an estimate, broadcast to [P].
    """
    points, clients = samples.shape
    shape = (points, np.broadcast_shapes(np.shape(fitted), np.shape(reused))[-2], clients)
    return Federation(
        jnp.sqrt(jnp.asarray(np.broadcast_to(tau2, points), jnp.float32)),
        jnp.asarray(np.broadcast_to(sigma, points), jnp.float32),
        jnp.asarray(samples),
        jnp.asarray(np.broadcast_to(weights, samples.shape), jnp.float32),
        jnp.asarray(rho, jnp.float32),
        jnp.asarray(np.broadcast_to(fitted, shape)),
        jnp.asarray(np.broadcast_to(reused, shape)),
        jnp.asarray(np.broadcast_to(width, points)),
    )


def compare_points(key: Any, points: tuple[Point, ...], trials: int) -> Compared:
    """[KINDS P] for federations of equal clients; each number of clients compiles a program."""
    form, mean, error = np.empty((3, len(KINDS), len(points)))
    capacity = max(point.samples for point in points) + HELD
    for number in sorted({point.clients for point in points}):
        places = [i for i, point in enumerate(points) if point.clients == number]
        tau2, sigma, samples, clients = np.array([points[i] for i in places], float).T
        client = equal_clients(samples, clients, np.sqrt(tau2), sigma)
        each = np.repeat(samples.astype(int)[:, None], number, 1)
        shape = (len(places), 1, number)
        stacked = federations(
            each, 1 / number, tau2, sigma,
            fitted=np.stack([np.full_like(each, HELD), each], 1),
            reused=np.stack([np.zeros_like(each), each], 1),
            rho=np.broadcast_to(np.asarray(best_rho(client))[:, None, None], shape),
        )  # fmt: skip
        ran = simulate(jax.random.fold_in(key, number), stacked, trials, (capacity, WIDTH))
        values = jnp.concatenate(
            [ran.local[:, :, None], ran.replaced[:, :, None], ran.merged, ran.learned], 2
        )
        estimate = over_trials(values, pooled=True)
        mean[:, places], error[:, places] = estimate.mean.T, estimate.error.T
        form[:, places] = all_forms(client, sigma, samples)
    return Compared(form, Estimate(mean, error))


def all_forms(client: Moments, sigma: Any, samples: Any) -> np.ndarray:
    """The closed forms in the order of KINDS."""
    held, training = Evidence(sigma**2 / HELD, 0.0), Evidence(sigma**2 / samples, 1.0)
    forms = (
        error_at(client, 0.0),
        error_at(client, 1.0),
        best_error(client),
        learned_error(client, held, WIDTH),
        learned_error(client, training, WIDTH),
    )
    return np.stack(np.broadcast_arrays(*forms))


class Unequal(NamedTuple):
    """Clients with few and many samples, [P N] or [P E N]; weights are sample shares."""

    local: Compared
    replaced: Compared
    merged: Compared
    shared: Compared
    """Merged at one rho for all."""
    learned: Compared
    """Merged at a learned rho: on held-out samples, half seen in training, all seen."""
    rho: Compared
    """The learned rho of these three."""
    best: np.ndarray
    """rho*."""


def compare_unequal(key: Any, trials: int) -> Unequal:
    """Compare the unequal clients, for each of `SPREADS`."""
    weights = SIZES / SIZES.sum()
    each = [moments(SIZES, weights, np.sqrt(tau2), 1.0) for tau2 in SPREADS]
    clients = Moments(*(np.stack(part) for part in zip(*each, strict=True)))
    best = np.asarray(best_rho(clients))
    one = np.broadcast_to(np.asarray(shared_rho(clients))[:, None], best.shape)
    ones = np.ones_like(SIZES)
    fitted = np.stack([HELD * ones, 2 * ones, SIZES])
    reused = np.stack([0 * ones, ones, SIZES])
    stacked = federations(
        np.broadcast_to(SIZES, best.shape), weights, SPREADS, 1.0,
        fitted, reused, rho=np.stack([best, one], 1),
    )  # fmt: skip
    ran = simulate(key, stacked, trials, (int(SIZES.max()) + HELD, WIDTH))
    client = Moments(*(np.asarray(part)[:, None] for part in clients))
    evidence = Evidence(1 / fitted, reused / fitted)

    def compared(form: Any, values: Any) -> Compared:
        return Compared(np.asarray(form), over_trials(values, pooled=False))

    return Unequal(
        local=compared(error_at(clients, 0.0), ran.local),
        replaced=compared(error_at(clients, 1.0), ran.replaced),
        merged=compared(error_at(clients, best), ran.merged[:, :, 0]),
        shared=compared(error_at(clients, one), ran.merged[:, :, 1]),
        learned=compared(learned_error(client, evidence, WIDTH), ran.learned),
        rho=compared(learned_rho(client, evidence, WIDTH)[0], ran.rho),
        best=best,
    )


class Fit(NamedTuple):
    """A way to fit rho; the rest of the federation is as in `Point()`."""

    tau2: float
    samples: int
    """Training samples."""
    fitted: int
    """Samples that rho is fitted on."""
    reused: int = 0
    """Those of them that were trained on."""
    width: int = WIDTH


COUNT, SEEN = 8, (0, 2, 4, 6, 8)
SEEN_TAU2 = (1 / 32, 1 / 8, 1 / 2)
"""A quarter of s, s, and 4 s."""
SEEN_FITS = tuple(Fit(tau2, COUNT, COUNT, k) for tau2, k in itertools.product(SEEN_TAU2, SEEN))
"""Rho is fitted on as many samples as were trained on; some are the same."""
WIDTHS, FEW = (2, 4, 8, 16, 32), 2
ALIKE_FITS = tuple(Fit(0.0, COUNT, FEW, width=width) for width in WIDTHS)
"""Clients with equal optima: rho* is 1, so about half of the fitted values are cut."""
TOTAL, HELD_OUT, HELD_WIDTHS = 32, (1, 2, 4, 8, 12, 16, 24), (4, 32)
HELD_FITS = tuple(
    Fit(1 / 8, TOTAL - held, held, width=width)
    for width, held in itertools.product(HELD_WIDTHS, HELD_OUT)
)
"""Some of a client's samples are held out for rho; the others are trained on."""


class Fitted(NamedTuple):
    """Results of the fits, [P]."""

    rho: Compared
    learned: Compared
    clipped: Compared


def compare_fits(key: Any, fits: tuple[Fit, ...], trials: int) -> Fitted:
    """Compare the fits, all in one compiled program."""
    tau2, samples, fitted, reused, width = np.array(fits).T
    number = Point().clients
    client = equal_clients(samples, number, np.sqrt(tau2), 1.0)
    evidence = Evidence(1 / fitted, reused / fitted)
    stacked = federations(
        np.repeat(samples.astype(int)[:, None], number, 1), 1 / number, tau2, 1.0,
        fitted.astype(int)[:, None, None], reused.astype(int)[:, None, None],
        np.ones((len(fits), 1, number)), width.astype(int),
    )  # fmt: skip
    room = int((samples + fitted - reused).max()), int(width.max())
    ran = simulate(key, stacked, trials, room)

    def compared(form: Any, values: Any) -> Compared:
        return Compared(np.asarray(form), over_trials(values[:, :, 0], pooled=True))

    return Fitted(
        rho=compared((1 - evidence.seen) * client.share / (1 - client.own), ran.rho),
        learned=compared(learned_error(client, evidence, width), ran.learned),
        clipped=compared(clipped_error(client, evidence, width), ran.clipped),
    )

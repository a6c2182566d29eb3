"""Closed forms of the quadratic federation lie within the Monte-Carlo error of its simulation."""

import jax
import numpy as np
import pytest
from closed_forms import (
    Evidence,
    best_error,
    best_held_share,
    equal_clients,
    error_at,
    learned_error,
)
from comparisons import (
    ALIKE_FITS,
    SEEN_FITS,
    WIDTH,
    Point,
    compare_fits,
    compare_points,
    compare_unequal,
)
from scipy.optimize import minimize_scalar

TRIALS = 400
FARTHEST = 4.5
"""Standard errors: of some 400 values, the largest of a true form is beyond in one run of 300."""
POINTS = tuple(
    Point(tau2, sigma, samples, clients=4)
    for tau2 in (0.0, 1 / 8, 1.0)
    for sigma, samples in ((0.5, 2), (2.0, 8))
)


def check(compared):
    assert compared.away.max() < FARTHEST
    if compared.away.size > 20:
        assert np.sqrt(np.mean(compared.away**2)) < 1.5


@pytest.fixture(scope="module")
def points():
    return compare_points(jax.random.key(1), POINTS, TRIALS)


def test_equal_clients(points):
    """Local, replaced, merged at rho*, learned on held-out samples and on those of the training."""
    check(points)


def test_the_simulation_sees_that_the_aggregate_holds_the_clients_own_error(points):
    """The forms for an aggregate of strangers (a = 0) are refused where heterogeneity is small."""
    _, sigma, samples, clients = np.array(POINTS).T
    tau2 = np.array([point.tau2 for point in POINTS])
    naive = tau2 + (tau2 + sigma**2 / samples) / clients  # of the aggregate, were it independent
    assert (points.simulated.away_from(np.broadcast_to(naive, points.form.shape))[1] > 6).any()


def test_clients_of_unequal_size():
    found = compare_unequal(jax.random.key(2), TRIALS)
    for compared in (found.local, found.replaced, found.merged, found.shared, found.learned):
        check(compared)
    check(found.rho)


def test_rho_learned_on_samples_that_training_saw_and_cut():
    found = compare_fits(jax.random.key(3), (*SEEN_FITS, *ALIKE_FITS[1:]), TRIALS)
    check(found.rho)
    check(found.learned)
    check(found.clipped)


def test_fitted_on_the_training_samples_rho_is_zero_and_the_client_stays_alone():
    client = equal_clients(8, 16, 0.3, 1.0)
    seen = Evidence(noise=1 / 8, seen=1.0)
    assert learned_error(client, seen, WIDTH) == pytest.approx(error_at(client, 0.0))


def test_the_best_merge_is_the_lowest_of_all():
    client = equal_clients(8, 16, 0.3, 1.0)
    lowest = minimize_scalar(lambda rho: error_at(client, rho), bounds=(0, 1), method="bounded")
    assert best_error(client) == pytest.approx(lowest.fun, rel=1e-6)
    assert best_error(client) < min(error_at(client, 0.0), error_at(client, 1.0))


def test_the_best_share_to_hold_out_is_right_for_many_coordinates():
    total, width = 1000, 4096

    def error(share):
        client = equal_clients(total * (1 - share), 1000, 0.2, 1.0)
        return learned_error(client, Evidence(1 / (total * share), 0.0), width)

    lowest = minimize_scalar(error, bounds=(1e-4, 0.5), method="bounded")
    whole = equal_clients(total, 1000, 0.2, 1.0)
    assert best_held_share(whole, width) == pytest.approx(lowest.x, rel=0.05)

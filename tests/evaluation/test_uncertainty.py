"""Intervals: the bootstrap by brute force and by its coverage; the spread over seeds by hand."""

import itertools
import math

import numpy as np
import pytest

from fedem_jax.errors import UserError
from fedem_jax.evaluation import statistics as uncertainty
from fedem_jax.evaluation.statistics import bootstrap_interval, over_seeds


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_three_clients_are_those_of_all_resamples(level):
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=3)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    expected = np.quantile(means, ends, method="inverted_cdf")
    np.testing.assert_allclose(bootstrap_interval(values, level, 20_001), expected, atol=1e-12)


def test_every_resample_draws_as_many_clients_as_there_are(monkeypatch):
    """Means of clients that are all one are one, however the resamples are cut into chunks."""
    for chunk in (1, 7, 2**20):
        monkeypatch.setattr(uncertainty, "CLIENTS_AT_ONCE", chunk)
        np.testing.assert_allclose(bootstrap_interval(np.ones((5, 2)), resamples=30), 1)


def test_metrics_of_the_same_clients_are_resampled_together():
    values = np.random.default_rng(0).random(50)
    low, high = bootstrap_interval(np.stack([values, 2 * values, -values], axis=1))
    assert (low < high).all()
    np.testing.assert_allclose([low[1], high[1]], [2 * low[0], 2 * high[0]])
    np.testing.assert_allclose([low[2], high[2]], [-high[0], -low[0]])
    np.testing.assert_allclose([low[0], high[0]], bootstrap_interval(values))


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(40)
    np.testing.assert_array_equal(bootstrap_interval(values), bootstrap_interval(values))
    assert (bootstrap_interval(values) != bootstrap_interval(values, seed=1)).any()


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    """300 experiments with 200 clients whose hit rate is 0.3: within four standard errors, and
    little room below for the bootstrap's own shortfall at this size."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = bootstrap_interval((draw.random(200) < 0.3).astype(float), resamples=400)
        held += low <= 0.3 <= high
    assert abs(held / 300 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)


def test_width_is_that_of_the_normal_law_for_many_clients():
    values = np.random.default_rng(0).normal(size=4000)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4000), rel=0.06)


def test_equal_values_have_an_interval_without_width():
    np.testing.assert_allclose(bootstrap_interval(np.full(9, 0.25)), [0.25, 0.25])


def test_no_client_is_an_error():
    with pytest.raises(UserError, match="no client"):
        bootstrap_interval(np.zeros((0, 3)))


def test_over_seeds_by_hand():
    assert over_seeds([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)), 3)


def test_a_single_seed_has_no_spread():
    mean, sd, n = over_seeds([0.5])
    assert (mean, n) == (0.5, 1)
    assert math.isnan(sd)


def test_no_seed_is_an_error():
    with pytest.raises(UserError, match="no seed"):
        over_seeds([])

"""The paired test by enumeration, by SciPy and by its calibration; Holm's rule by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import permutation_test

from fedem_jax.errors import UserError
from fedem_jax.evaluation import statistics as significance
from fedem_jax.evaluation.statistics import holm, sign_flip_p


def test_all_signs_of_eight_clients():
    differences = np.array([0.5, 1.0, -0.5, 1.0, 0.0, 0.25, 1.0, -0.2])
    flips = np.array(list(itertools.product([-1, 1], repeat=8))) @ differences
    expected = (np.abs(flips) >= differences.sum() - 1e-12).mean()
    error = 4 * np.sqrt(expected * (1 - expected) / 19_999)
    assert sign_flip_p(differences) == pytest.approx(expected, abs=error)


def test_as_scipy_permutes_pairs():
    draw = np.random.default_rng(0)
    ours, theirs = draw.random(12) < 0.8, draw.random(12) < 0.3

    def gap(x, y, axis):
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    pair = (ours.astype(float), theirs.astype(float))
    exact = permutation_test(pair, gap, permutation_type="samples", vectorized=True)
    assert sign_flip_p(pair[0] - pair[1]) == pytest.approx(exact.pvalue, abs=0.015)


def test_hits_that_cancel_are_no_evidence():
    """Half the flips of an even split are ties with it, which rounding must not lose."""
    assert sign_flip_p(np.array([0.1, -0.1] * 50)) == 1
    assert sign_flip_p(np.full(2, 0.1)) == pytest.approx(0.5, abs=0.02)


def test_no_difference_at_all():
    np.testing.assert_array_equal(sign_flip_p(np.zeros((5, 2))), [1, 1])


def test_the_least_p_is_that_of_the_number_of_resamples():
    assert sign_flip_p(np.ones(200), resamples=99) == 0.01


def test_neither_the_chunks_nor_other_metrics_matter(monkeypatch):
    differences = np.random.default_rng(0).normal(0.1, 1, (40, 2))
    expected = sign_flip_p(differences)
    np.testing.assert_array_equal(sign_flip_p(differences[:, 0]), expected[0])
    np.testing.assert_array_equal(sign_flip_p(-differences), expected)
    assert sign_flip_p(differences, seed=1)[0] != expected[0]
    monkeypatch.setattr(significance, "SIGNS_AT_ONCE", 64)
    np.testing.assert_allclose(sign_flip_p(differences), expected, atol=0.02)


def test_methods_that_are_alike_are_told_apart_as_often_as_p_says():
    draw = np.random.default_rng(0)
    gaps = (draw.random((300, 400)) < 0.3) * 1.0 - (draw.random((300, 400)) < 0.3)
    share = (sign_flip_p(gaps, resamples=999) <= 0.1).mean()
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 400)


def test_no_client_is_an_error():
    with pytest.raises(UserError, match="no client"):
        sign_flip_p(np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x .005, 3 x .01, 2 x .03
        ([0.5, 0.6, 0.001], [1.0, 1.0, 0.003]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(p, corrected):
    np.testing.assert_allclose(holm(np.array(p)), corrected)

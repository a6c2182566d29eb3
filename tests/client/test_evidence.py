"""What a client knows of its rows, and the weights in closed form, against loops over the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedem_jax.client.evidence import NUM_FEATURES, counted, features, shrinkage
from fedem_jax.core.samples import ClientSamples, Rule

RNG = np.random.default_rng(2)
LOCAL, AGGREGATED = RNG.normal(size=(2, 9, 4))
SEEN = np.array([[0, 3, 0, 1, 0, 0, 2.5, 0, 1], [0, 0, 1, 2, 0.25, 7, 0, 3, 1]])
USER = np.array([0.5, -2.0, 1.0, 0.3])


def test_samples_are_counted_by_item_and_label():
    rows = jnp.array([4, 0, 7, 9])  # 9: not in use
    samples = ClientSamples(
        rows, jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.array([0, 1, 1, 0, 2, 2, 1]), jnp.int32(5),
        lambda epoch, count: lambda position: position, Rule(2, 1, jnp.float32(0)),
    )  # fmt: skip
    expected = np.zeros((2, 9))
    for row in (0, 1, 1, 0, 2):  # the places from 5 on are padding
        expected[int(row != 0), rows[row]] += 1
    np.testing.assert_array_equal(counted(samples, 9), expected)


def plain_features(local, aggregated, seen):
    scores = [(sum(USER * q), sum(USER * g)) for q, g in zip(local, aggregated, strict=True)]
    size = np.sqrt(np.mean([z * z for pair in scores for z in pair]))
    lengths = [
        [np.sqrt(sum(row**2)) for row in (q, g, g - q)]
        for q, g in zip(local, aggregated, strict=True)
    ]
    usual = np.mean([length for row in lengths for length in row[:2]])
    return [
        [1, np.log(1 + positives), np.log(1 + negatives), own / size, served / size]
        + [length / usual for length in row]
        for positives, negatives, (own, served), row in zip(*seen, scores, lengths, strict=True)
    ]


def test_features_are_those_of_a_loop_over_the_rows():
    tables = (jnp.float32(LOCAL), jnp.float32(AGGREGATED), jnp.float32(SEEN))
    found = features(lambda rows: rows @ jnp.float32(USER), *tables)
    assert found.shape == (9, NUM_FEATURES)
    np.testing.assert_allclose(found, plain_features(LOCAL, AGGREGATED, SEEN), atol=2e-6)


def test_features_of_tables_of_zeros_are_finite():
    nothing = jnp.zeros((9, 4))
    found = features(lambda rows: rows @ jnp.float32(USER), nothing, nothing, jnp.zeros((2, 9)))
    np.testing.assert_array_equal(found, [[1, *[0] * 7]] * 9)


def plain_shrinkage(local, aggregated, samples):
    used = [i for i, n in enumerate(samples) if n > 0]
    n = np.array([samples[i] for i in used])
    z = np.array([samples[i] * np.mean((aggregated[i] - local[i]) ** 2) for i in used])
    if len(used) > 1 and np.ptp(n) > 0:
        t2, s2 = np.polyfit(n, z, 1)
    else:
        t2, s2 = 0.0, z.mean() if used else 0.0
    if t2 < 0:
        t2, s2 = 0.0, z.mean()
    if s2 < 0:
        t2, s2 = (n @ z) / (n @ n), 0.0
    rho = np.ones(len(samples))
    for i in used:
        if s2 + samples[i] * t2 > 0:
            rho[i] = s2 / (s2 + samples[i] * t2)
    return rho


def pair(gaps):
    """Two tables of width 4 whose rows are this far apart, root mean square."""
    local = RNG.normal(size=(len(gaps), 4))
    return local, local + np.array(gaps)[:, None] * RNG.choice([-1, 1], (len(gaps), 4))


NUMBERS = np.array([0, 1, 2, 4, 0.5, 0, 8, 1])
GAPS = {
    "both variances": np.sqrt(2 / np.maximum(NUMBERS, 0.1) + 0.3) * RNG.uniform(0.9, 1.1, 8),
    "no heterogeneity": 1 / np.maximum(NUMBERS, 0.1),
    "no noise": np.sqrt(0.1 + NUMBERS),
    "equal tables": np.zeros(8),
}


@pytest.mark.parametrize("case", GAPS)
def test_shrinkage_is_that_of_a_loop_over_the_rows(case):
    local, aggregated = pair(GAPS[case])
    expected = plain_shrinkage(local, aggregated, NUMBERS)
    found = shrinkage(*map(jnp.float32, (local, aggregated, NUMBERS)))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(found[NUMBERS == 0], 1)
    inside = {"no heterogeneity": 1, "no noise": 0, "equal tables": 1}
    if case in inside:
        np.testing.assert_array_equal(found[NUMBERS > 0], inside[case])
    else:
        assert (np.diff(found[np.argsort(NUMBERS)]) <= 0).all()


@pytest.mark.parametrize("samples", [np.zeros(8), np.eye(8)[3] * 5, np.full(8, 3.0)])
def test_without_rows_of_different_evidence_the_aggregate_is_taken(samples):
    tables = pair(np.ones(8))
    found = shrinkage(*map(jnp.float32, (*tables, samples)))
    np.testing.assert_array_equal(found, np.ones(8))
    np.testing.assert_array_equal(plain_shrinkage(*tables, samples), np.ones(8))


def test_shrinkage_finds_the_weight_of_the_theory():
    """Rows drawn as experiments/theory.md assumes, sample by sample."""
    rng, sigma, tau, width = np.random.default_rng(0), 1.5, 0.7, 8
    number = rng.integers(1, 30, 4000)
    wanted = rng.normal(scale=tau, size=(4000, width))  # the aggregate is 0
    own = wanted + rng.normal(scale=sigma, size=(4000, width)) / np.sqrt(number)[:, None]
    found = jax.jit(shrinkage)(jnp.float32(own), jnp.zeros((4000, width)), jnp.float32(number))
    np.testing.assert_allclose(found, sigma**2 / (sigma**2 + number * tau**2), atol=0.03)

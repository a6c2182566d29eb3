"""The losses: values, gradients, and what happens at saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from plain_losses import PLAIN

from fedem_jax.models.losses import BCE, bpr_loss, logit_bce, probability_bce, softmax_loss

LOGITS = np.array([-90, -40, -29, -27, -20, -5, -1, 0, 0.5, 3, 12, 16.6, 16.7, 20, 40, 200])


def value_and_slope(loss, logit, label):
    return jax.vmap(jax.value_and_grad(loss))(np.float32(logit), np.float32(label))


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("form", BCE)
def test_value_and_gradient_are_those_of_the_twin(form, label):
    logit, label = np.float32(LOGITS), np.full(len(LOGITS), label, np.float32)
    expected = twin.bce(logit, label, form)
    atol = 1e-7 if form == "probability" else 1e-30
    for ours, theirs in zip(value_and_slope(BCE[form], logit, label), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-6, atol=atol)


def test_the_probability_form_has_no_gradient_where_the_probability_is_one():
    value, slope = value_and_slope(probability_bce, [20.0, 20.0], [1.0, 0.0])
    np.testing.assert_array_equal(value, [0, 100])  # right for free, wrong at the cut-off
    np.testing.assert_array_equal(slope, [0, 0])


def test_the_probability_form_fades_out_where_the_probability_is_nearly_zero():
    p = np.exp(-30.0)
    value, slope = value_and_slope(probability_bce, [-30.0, -30.0], [1.0, 0.0])
    np.testing.assert_allclose(value, [30, 0], rtol=1e-6)
    np.testing.assert_allclose(slope, [-p * 1e12, p * p * 1e12], rtol=1e-5)


def test_the_logit_form_never_loses_its_gradient():
    logit, label = [20.0, -20, 20, -90, 500], [1.0, 0, 0, 1, 0]
    value, slope = value_and_slope(logit_bce, logit, label)
    small = np.exp(-20.0)
    np.testing.assert_allclose(value, [small, small, 20, 90, 500], rtol=1e-5)
    np.testing.assert_allclose(slope, [-small, small, 1, -1, 1], rtol=1e-5)


def test_the_gradient_is_scaled_by_what_comes_from_above():
    def total(logit):
        return 3 * probability_bce(logit, np.float32([1, 0])).sum()

    logit = np.float32([0.3, -2])
    slope = jax.grad(total)(logit)
    np.testing.assert_allclose(slope, 3 * (twin.sigmoid(logit) - [1, 0]), rtol=1e-6)


# --- losses of a batch ----------------------------------------------------------------------------

OF_BATCH = {"softmax": softmax_loss, "bpr": bpr_loss}
BOTH = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in OF_BATCH.items()}
"""`(logit, label, weight) -> (loss, its slope by the logit)`."""


@pytest.mark.parametrize("name", OF_BATCH)
@pytest.mark.parametrize(
    ("label", "count"),
    [
        ([1, 0, 0, 1, 0, 0], [1, 1, 2, 3, 0, 1]),
        ([1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]),
        ([0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]),
        ([1, 1, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]),
    ],
    ids=["counted", "absent", "no positive", "no negative"],
)
def test_a_loss_of_a_batch_is_that_of_a_loop_over_samples(name, label, count):
    logit, label = np.array([0.3, -1.0, 2.0, 1.5, 0.1, -0.7]), np.array(label)
    samples = np.repeat(np.arange(len(logit)), count)
    loss, of_samples = PLAIN[name](logit[samples], label[samples])
    slope = np.zeros(len(logit))
    np.add.at(slope, samples, of_samples)
    found = BOTH[name](*map(jnp.float32, (logit, label, count)))
    for ours, theirs in zip(found, (loss, slope), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_more_positives_than_are_paired_at_once_are_all_paired():
    rng = np.random.default_rng(1)
    logit, label = rng.normal(size=90), rng.permutation(np.arange(90) < 70).astype(float)
    found = BOTH["bpr"](*map(jnp.float32, (logit, label, np.ones(90))))
    for ours, theirs in zip(found, PLAIN["bpr"](logit, label), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PLAIN)
def test_the_slopes_of_the_loops_are_those_of_differences(name):
    logit, label = np.array([0.3, -1.0, 2.0, 1.5, 0.1]), np.array([1, 0, 0, 1, 0])
    _, slope = PLAIN[name](logit, label)
    for at, step in enumerate(1e-5 * np.eye(len(logit))):
        above, below = (PLAIN[name](logit + sign * step, label)[0] for sign in (1, -1))
        np.testing.assert_allclose(slope[at], (above - below) / 2e-5, atol=1e-9)


@pytest.mark.parametrize("name", OF_BATCH)
def test_a_loss_of_a_batch_asks_for_the_order_alone_and_never_saturates(name):
    label, count = jnp.float32([1, 0, 0]), jnp.ones(3)

    def at(logit):
        return BOTH[name](jnp.float32(logit), label, count)

    np.testing.assert_allclose(at([-9, -9, -8])[0], at([1, 1, 2])[0], rtol=1e-6)
    loss, slope = at([-300, 300, 0])
    expected = {"softmax": (600, -1, 1, 0), "bpr": (450, -1, 0.5, 0.5)}
    np.testing.assert_allclose((loss, *slope), expected[name], atol=1e-5)

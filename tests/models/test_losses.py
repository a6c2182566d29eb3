"""Both forms of the binary cross-entropy: values, gradients, and what happens at saturation."""

import jax
import numpy as np
import pytest
import twin

from fedem_jax.models.losses import LOSSES, logit_bce, probability_bce

LOGITS = np.array([-90, -40, -29, -27, -20, -5, -1, 0, 0.5, 3, 12, 16.6, 16.7, 20, 40, 200])


def value_and_slope(loss, logit, label):
    return jax.vmap(jax.value_and_grad(loss))(np.float32(logit), np.float32(label))


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("form", LOSSES)
def test_value_and_gradient_are_those_of_the_twin(form, label):
    logit, label = np.float32(LOGITS), np.full(len(LOGITS), label, np.float32)
    expected = twin.bce(logit, label, form)
    atol = 1e-7 if form == "probability" else 1e-30
    for ours, theirs in zip(value_and_slope(LOSSES[form], logit, label), expected, strict=True):
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

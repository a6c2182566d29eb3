"""The losses: values, gradients, and what happens at saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin

from fedem_jax.models.losses import LOSSES, logit_bce, probability_bce, ranking_loss

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


# --- ranking --------------------------------------------------------------------------------------


def plain_ranking(logit, label, count):
    """Loss and its gradient, sample by sample."""
    samples = np.repeat(np.arange(len(logit)), count)
    positives, negatives = (samples[label[samples] == kind] for kind in (1, 0))
    loss, slope = 0.0, np.zeros(len(logit))
    for p in positives:
        if not len(negatives):
            continue
        together = np.append(negatives, p)
        share = np.exp(logit[together]) / np.exp(logit[together]).sum()
        loss -= np.log(share[-1]) / len(positives)
        np.add.at(slope, together, share / len(positives))
        slope[p] -= 1 / len(positives)
    return loss, slope


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
def test_the_ranking_loss_is_that_of_a_loop_over_samples(label, count):
    logit = np.array([0.3, -1.0, 2.0, 1.5, 0.1, -0.7])
    expected = plain_ranking(logit, np.array(label), np.array(count))
    both = jax.value_and_grad(ranking_loss)
    found = both(*map(jnp.float32, (logit, label, count)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_ranking_loss_asks_for_the_order_alone_and_never_saturates():
    label, count = jnp.float32([1, 0, 0]), jnp.ones(3)
    low, high = (ranking_loss(jnp.float32(z), label, count) for z in ([-9, -9, -8], [1, 1, 2]))
    np.testing.assert_allclose(low, high, rtol=1e-6)
    loss, slope = jax.value_and_grad(ranking_loss)(jnp.float32([-300, 300, 0]), label, count)
    np.testing.assert_allclose((loss, *slope), (600, -1, 1, 0), atol=1e-5)

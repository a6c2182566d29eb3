"""Masks of uploads: they cancel to the bit, and an upload with its masks tells nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import Lab, assert_same, config_of
from toy import small_federation

from fedem_jax.client import masking
from fedem_jax.client.masking import mask, masked_sum
from fedem_jax.config.registry import METHODS
from fedem_jax.config.settings import FedMF
from fedem_jax.core.fixed_point import FRACTION_BITS, from_fixed_point, to_fixed_point
from fedem_jax.core.round import RoundContext, Sum
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation

PARTICIPANTS = jnp.array([4, 0, 9, 7, 2])
MASKED = [name for name, (kind, _) in METHODS.items() if hasattr(kind, "secure_sum")]


@partial(jax.jit, static_argnums=2)
def masks_of(keys, clients, size):
    """Masks of some clients for each key: [keys clients size]."""
    of_client = jax.vmap(lambda key, client: mask(key, client, PARTICIPANTS, size), (None, 0))
    return jax.vmap(of_client, (0, None))(keys, clients)


# --- fixed point ----------------------------------------------------------------------------------


def test_integers_stand_for_the_nearest_steps():
    values = np.float32([0, 1, -1, 0.3, -2.7e-6, 4e-7, 1000.123, -2047.9])
    fixed = to_fixed_point(jnp.asarray(values))
    np.testing.assert_array_equal(fixed, np.round(np.float64(values) * 2**FRACTION_BITS))
    np.testing.assert_allclose(from_fixed_point(fixed), values, rtol=1e-7, atol=0.5 / 2**20)


def test_what_is_beyond_the_range_becomes_its_end():
    low, high = np.asarray(to_fixed_point(jnp.float32([-1e9, 1e9])))
    assert (low, high) == (-(2**31), 2**31 - 1)


# --- the sum --------------------------------------------------------------------------------------


def test_the_masks_of_all_cancel_in_the_sum_of_their_uploads():
    """Also where integers run over."""
    numbers = np.random.default_rng(0).integers(-(2**31), 2**31, (5, 300))
    masks = np.asarray(masks_of(jax.random.split(jax.random.key(1), 1), PARTICIPANTS, 300))[0]
    assert masks.dtype == np.uint32
    assert len(np.unique(masks, axis=0)) == 5
    sent = (numbers + masks) % 2**32
    assert (sent != numbers % 2**32).mean() > 0.99
    np.testing.assert_array_equal(sent.sum(axis=0) % 2**32, numbers.sum(axis=0) % 2**32)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_server_gets_the_sum_to_the_bit(devices):
    """Of an item table and of what is beside it; one of seven clients sits out."""
    config = FedMF(secure_sum=True, client_fraction=0.9, dim=3)
    simulation = Simulation(config, small_federation(), jax.devices()[:devices])
    rng = np.random.default_rng(2)
    table, beside = (rng.integers(-(2**31), 2**31, shape, np.int32) for shape in ((40, 3), (5,)))
    upload = Sum(jnp.asarray(table), {"bias": jnp.asarray(beside)})

    @jax.jit
    def received(upload, key, lists):
        draws = simulation.draws(key, jnp.int32(0), lists)
        context = RoundContext.of(config, simulation.layout, draws)
        return masked_sum(config, context, upload)

    assert_same(received(upload, simulation.key_draws, simulation.lists), upload)


def test_a_round_with_masks_is_one_without_them_to_the_bit(monkeypatch):
    """As integers. As floats, it is that round up to the steps of the integers."""
    masked = Lab(config_of("fedmf", secure_sum=True)).run()
    plain = Lab(config_of("fedmf")).run(1), Lab(config_of("fedmf", secure_sum=True)).run(1)
    gap = np.abs(plain[0][0].server.items - plain[1][0].server.items)
    assert 0 < gap.max() < 6 * 0.5 / 2**FRACTION_BITS + 1e-6
    monkeypatch.setattr(masking, "mask", lambda *_: jnp.uint32(0))
    assert_same(Lab(config_of("fedmf", secure_sum=True)).run(), masked)


# --- a single upload ------------------------------------------------------------------------------


def excess(values):
    """(X^2 - mean) / standard deviation of each of the four bytes, over its 256 values."""
    found = []
    for shift in (0, 8, 16, 24):
        counts = np.bincount((values >> np.uint32(shift)).ravel() & 255, minlength=256)
        expected = values.size / 256
        found.append((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))
    return np.array(found)


@pytest.mark.parametrize("client", [0, 4, 9])
def test_a_masked_upload_is_uniform_whatever_is_in_it(client):
    """Over 400 rounds, for an upload that does not change."""
    keys = jax.random.split(jax.random.key(3), 400)
    masks = np.asarray(masks_of(keys, jnp.array([client]), 100))[:, 0]
    moved = np.random.default_rng(4).normal(size=100) * 0.01
    for plain in (np.zeros(100), moved, np.full(100, 5.0)):
        fixed = np.asarray(to_fixed_point(jnp.float32(plain))).astype(np.uint32)
        assert excess(np.broadcast_to(fixed, (400, 100))).max() > 100
        sent = fixed + masks
        assert np.abs(excess(sent)).max() < 4
        rounds = np.corrcoef(np.float64(sent[:8])) - np.eye(8)
        assert np.abs(rounds).max() < 0.5  # of 100 numbers
        alike = [np.corrcoef(np.float64(each), plain)[0, 1] for each in sent if plain.std()]
        assert abs(np.mean(alike or [0])) < 4 / np.sqrt(400 * 100)


def test_one_secret_mask_is_enough():
    """All other clients but one tell the server their keys with client 4."""
    keys = jax.random.split(jax.random.key(6), 400)
    draw = jax.jit(jax.vmap(lambda key, others: mask(key, jnp.int32(4), others, 100), (0, None)))
    everyone, known = (np.asarray(draw(keys, jnp.array(who))) for who in ([4, 0, 9, 2], [4, 0, 9]))
    left = np.uint32(77) + everyone - known
    assert np.abs(excess(left)).max() < 4
    np.testing.assert_array_equal(left - np.uint32(77), np.asarray(draw(keys, jnp.array([2, 4]))))


def test_both_of_a_pair_have_the_same_mask_with_other_signs():
    key, pair = jax.random.key(5), jnp.array([3, 8])
    ours, theirs = (np.asarray(mask(key, jnp.int32(client), pair, 50)) for client in (3, 8))
    np.testing.assert_array_equal(ours + theirs, np.zeros(50, np.uint32))
    alone = mask(key, jnp.int32(3), jnp.array([3]), 50)
    np.testing.assert_array_equal(alone, np.zeros(50))


# --- settings and costs ---------------------------------------------------------------------------


def test_methods_that_average_may_mask():
    assert MASKED == ["fedmf", "fedncf", "pfedrec"]


@pytest.mark.parametrize("name", MASKED)
def test_keys_of_all_pairs_are_sent(name):
    """6 of 7 clients: each sends a key of 32 bytes, and gets those of the 5 others. Tables of half
    the bytes are sent whole."""
    for dtype, more in (("float32", 0), ("bfloat16", 2)):
        plain, masked = (
            Simulation(
                config_of(name, secure_sum=secure, table_dtype=dtype), small_federation(),
                jax.devices()[:1],
            )
            for secure in (False, True)
        )  # fmt: skip
        numbers = 6 * 40 * plain.config.dim
        assert masked.algorithm.traffic.up == plain.algorithm.traffic.up + 6 * 32 + more * numbers
        assert masked.algorithm.traffic.down == plain.algorithm.traffic.down + 6 * 5 * 32


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dropout": 0.1}, "give dropout 0 and on_nonfinite stop"),
        ({"on_nonfinite": "skip-client"}, "on_nonfinite stop"),
        ({"ldp_scale": 0.1}, "give ldp_scale 0"),
    ],
)
def test_what_masks_do_not_go_with_is_refused(name, settings, words):
    with pytest.raises(UserError, match=rf"^secure_sum: .*{words}\.$"):
        METHODS[name].settings(secure_sum=True, **settings)

"""Merging of two tables, and the adapter that weighs them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin

from fedem_jax.client.elastic import ElasticClient
from fedem_jax.client.evidence import features
from fedem_jax.client.local import first_row_weights
from fedem_jax.client.merging import merged
from fedem_jax.config.fedem import FedEM
from fedem_jax.models.adapter import Adapter


@pytest.fixture(scope="module")
def tables():
    return jnp.float32(np.random.default_rng(0).normal(size=(2, 7, 3)))


def test_weight_zero_keeps_the_row_and_one_replaces_it(tables):
    local, aggregated = tables
    np.testing.assert_array_equal(merged(local, aggregated, jnp.zeros(7)), local)
    np.testing.assert_allclose(merged(local, aggregated, jnp.ones(7)), aggregated, atol=1e-6)


def test_rows_are_weighed_one_by_one(tables):
    local, aggregated = tables
    rho = jnp.float32([0, 1, 0.3, 0, 0.5, 1, 0])
    expected = [twin.merge(q[None], g[None], r)[0][0] for q, g, r in zip(*tables, rho, strict=True)]
    np.testing.assert_allclose(merged(local, aggregated, rho), expected, atol=1e-6)


@pytest.mark.parametrize("widths", [(6, 5), (4,), ()])
def test_the_adapter_is_that_of_the_twin(tables, widths):
    adapter = Adapter(widths)
    params = adapter.init(jax.random.key(1), *tables)
    layers = [params["params"][f"Dense_{layer}"] for layer in range(len(widths) + 1)]
    layers = [tuple(np.float64(layer[part]) for part in ("kernel", "bias")) for layer in layers]
    expected, rho = twin.merge(*map(np.float64, tables), layers)
    np.testing.assert_allclose(adapter.apply(params, *tables), rho, atol=1e-6)
    np.testing.assert_allclose(merged(*tables, jnp.float32(rho)), expected, atol=1e-6)


def test_the_adapter_starts_uniform_within_one_over_the_root_of_its_inputs():
    rows = jnp.zeros((1, 50))
    layers = Adapter((200, 3)).init(jax.random.key(0), rows, rows)["params"]
    bound = 100**-0.5
    for values in layers["Dense_0"].values():
        assert bool(jnp.all(jnp.abs(values) <= bound))
        assert float(jnp.abs(values).max()) > 0.95 * bound
        assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("kind", ["table", "features"])
def test_rho_starts_where_it_is_asked_to(tables, kind):
    model = ElasticClient.of(FedEM(merging="once", adapter=kind), num_items=7)
    theta = model.first_adapter(jax.random.key(0), tables[0], jnp.float32(0.9))
    seen = jnp.ones((2, 7)) if kind == "features" else None
    evidence = None if seen is None else features(lambda rows: rows[:, 0], *tables, seen)
    inputs = tables if evidence is None else (evidence,)
    rho = model.adapter.apply({"params": theta}, *inputs)
    np.testing.assert_allclose(rho, np.full(7, 0.9), atol=1e-6)


@pytest.mark.parametrize("widths", [(6, 5), ()])
def test_a_network_starts_higher_by_the_log_odds_and_as_released_at_one_half(tables, widths):
    model = ElasticClient.of(FedEM(adapter_widths=widths), num_items=7)
    first = partial(model.first_adapter, jax.random.key(0), tables[0])
    released = model.adapter.init(jax.random.key(0), tables[0], tables[0])["params"]
    jax.tree.map(np.testing.assert_array_equal, first(jnp.float32(0.5)), released)
    high, low = (
        model.adapter.apply({"params": first(jnp.float32(start))}, *tables) for start in (0.9, 0.5)
    )
    np.testing.assert_allclose(high / (1 - high), 9 * low / (1 - low), rtol=1e-4)


def test_a_row_met_twice_in_a_batch_counts_once_with_its_whole_share():
    row = jnp.array([4, 2, 4, 0, 4, 1], jnp.int32)
    present = jnp.array([True, True, True, True, False, False])
    weigh = jax.jit(partial(first_row_weights, num_rows=5))
    np.testing.assert_array_equal(weigh(row, present), [0.5, 0.25, 0, 0.25, 0, 0])
    np.testing.assert_array_equal(weigh(row, jnp.zeros(6, bool)), np.zeros(6))

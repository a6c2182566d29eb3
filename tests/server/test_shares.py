"""The server's step divided over two devices, against the same step in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.core.layout import PerDevice
from fedem_jax.core.size_classes import ClientLoad, lay_out
from fedem_jax.core.table_storage import from_storage, to_storage
from fedem_jax.server.serving import first_tables, rows_of, slots
from fedem_jax.server.shares import aggregate_shares, padded, shares_of, signatures
from fedem_jax.server.similarity import principal_axes, principal_scores

UPLOADERS = jnp.array([6, 0, 3])
"""Three clients: the last place of the second device is padding."""


@pytest.fixture(scope="module")
def layout():
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    federation = small_federation()
    load = ClientLoad.of(federation, 2, 16)
    return lay_out(federation, load, devices=jax.devices()[:2], num_classes=1, block=1)


def tables_of(layout, items=59, dim=4):
    tables = np.random.default_rng(0).normal(size=(layout.num_clients, items, dim))
    spread = np.zeros((layout.padded, items, dim), np.float32)
    spread[layout.place] = tables
    return np.float32(tables), jax.device_put(spread, layout.sharded())


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_each_device_gets_its_share_of_the_uploads_alone(layout, dtype):
    tables, held = tables_of(layout)
    kept = to_storage(held, jnp.dtype(dtype))
    shares = jax.jit(lambda kept: shares_of(layout, kept, UPLOADERS))(kept)
    assert shares.dtype == kept.dtype
    assert [part.data.shape[0] for part in shares.addressable_shards] == [2, 2]
    expected = from_storage(to_storage(jnp.asarray(tables), jnp.dtype(dtype)))[UPLOADERS]
    np.testing.assert_array_equal(from_storage(shares)[:3], expected)
    assert not np.asarray(shares[3]).any()
    np.testing.assert_array_equal(padded(layout, UPLOADERS, 9), [6, 0, 3, 9])


@pytest.mark.parametrize("rows", [1, 3])
def test_shares_add_up_to_the_whole(layout, rows):
    """The last part of 59 items overlaps the one before it."""
    layout = layout._replace(num_items=59)
    tables, held = tables_of(layout)
    weights = np.float32(np.random.default_rng(1).random((rows, 3)))
    before = jnp.full((rows, 59, 4), jnp.nan)

    def step(held, weights, before):
        uploads = shares_of(layout, held, UPLOADERS)
        return signatures(layout, uploads, 3), aggregate_shares(layout, weights, uploads, before)

    (axes, scores), made = jax.jit(step)(held, weights, before)
    uploads = jnp.asarray(tables)[UPLOADERS]
    np.testing.assert_allclose(made, np.einsum("ra,aid->rid", weights, uploads), atol=1e-5)
    expected = principal_axes(uploads)
    np.testing.assert_allclose(axes, expected, atol=1e-5)
    np.testing.assert_allclose(scores, principal_scores(uploads, expected), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_each_device_holds_the_tables_of_its_own_clients_alone(layout, dtype):
    layout, config = layout._replace(num_items=59), config_of("fedem")
    weights = np.float32(np.random.default_rng(1).random((3, 3)))
    _, held = tables_of(layout)

    def step(held, weights, before):
        uploads = shares_of(layout, held, UPLOADERS)
        return aggregate_shares(layout, weights, uploads, before, UPLOADERS)

    whole = jax.jit(step)(held, weights, jnp.zeros((3, 59, 4), dtype))
    before = first_tables(config, layout, 3, (59, 4), dtype)
    made = jax.jit(step)(held, weights, before)
    assert isinstance(made, PerDevice)
    assert made.rows.dtype == dtype
    assert [part.data.shape[0] for part in made.rows.addressable_shards] == [3, 3]

    slot = np.asarray(slots(layout, UPLOADERS, rows_of(config, layout, UPLOADERS)))
    assert (slot >= 0).sum() == 3
    for number, client in enumerate(UPLOADERS):
        device, row = layout.place[client] // layout.shard, slot[layout.place[client]]
        np.testing.assert_array_equal(made.rows[device * 3 + row], whole[number])


def test_no_device_has_room_for_more_tables_than_clients(layout):
    config = config_of("fedem")
    assert first_tables(config, layout, 7, (59, 4), "float32").rows.shape == (8, 59, 4)
    on_host = config_of("fedem", client_memory="host")
    assert first_tables(on_host, layout, 7, (59, 4), "float32").shape == (7, 59, 4)

"""Tables in half the bytes: rounded once, and moved row by row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from fedem_jax.config.fedem import FedEM
from fedem_jax.core.round import Change, Trained, written
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage

CLIENTS, ITEMS, DIM, ROWS = 40, 300, 8, 20


class Clients(NamedTuple):
    items: Any


def test_a_table_in_bfloat16_is_rounded_to_the_nearest_and_comes_back_so():
    table = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    dtype = storage_dtype(FedEM(table_dtype="bfloat16"))
    assert dtype.itemsize == 2
    back = from_storage(to_storage(jnp.asarray(table), dtype))
    np.testing.assert_array_equal(back, table.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(from_storage(to_storage(back, dtype)), back)


def test_a_table_in_float32_is_held_as_it_is():
    table = jnp.float32([[1.1, -2e-30]])
    kept = to_storage(table, storage_dtype(FedEM()))
    assert kept.dtype == jnp.float32
    np.testing.assert_array_equal(from_storage(kept), table)


@pytest.mark.parametrize("table_dtype", ["float32", "bfloat16"])
def test_rows_are_written_without_a_copy_of_all_tables(table_dtype):
    dtype = storage_dtype(FedEM(table_dtype=table_dtype))

    def everyone(items):
        def one(client, clients):
            rows = (7 * jnp.arange(ROWS) + client)[None] % ITEMS
            table = from_storage(clients.items[client, rows]) + 1
            trained = Trained(jnp.zeros(1), jnp.float32(0), jnp.int32(1))
            return written(clients, client[None], Change({}, trained, rows, table))

        return lax.fori_loop(0, CLIENTS, one, Clients(items)).items

    start = jnp.zeros((CLIENTS, ITEMS, DIM), dtype)
    program = jax.jit(everyone, donate_argnums=0).lower(start).compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < start.nbytes / 4
    moved = from_storage(program(start))
    assert moved.sum() == CLIENTS * ROWS * DIM
    assert moved.max() == 1

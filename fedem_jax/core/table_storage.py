"""Item tables between rounds and on the wire: float32, or bfloat16 at half the bytes.

bfloat16 is held as its bits, in uint16. On a CPU, XLA has no scatter of bfloat16. To change some
rows of one client it would rewrite the tables of all.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from fedem_jax.config.base import Config


def storage_dtype(config: Config) -> Any:
    """Type of the array that holds a table, `config.table_dtype`."""
    return jnp.dtype(jnp.uint16 if config.table_dtype == "bfloat16" else config.table_dtype)


def table_bytes(config: Config, num_items: int) -> int:
    """Bytes of an item table as it is kept and sent."""
    return storage_dtype(config).itemsize * num_items * config.dim


def to_storage(table: Float[Array, "*n D"], dtype: Any) -> Num[Array, "*n D"]:
    """A table as it is held between rounds, rounded to the nearest number of the type."""
    if dtype != jnp.uint16:
        return table.astype(dtype)
    return lax.bitcast_convert_type(table.astype(jnp.bfloat16), jnp.uint16)


def from_storage(table: Num[Array, "*n D"]) -> Float[Array, "*n D"]:
    """A held table in float32, in which all arithmetic is done."""
    if table.dtype == jnp.uint16:
        table = lax.bitcast_convert_type(table, jnp.bfloat16)
    return table.astype(jnp.float32)


def everybodys_table(state: Any, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I D"]:
    """The server's table `items`, for methods whose clients have no other."""
    table = from_storage(state.server.items)
    return jnp.broadcast_to(table, (*places.shape, *table.shape))

"""What others ask of FedEM: how clients merge, for counts of rho and the bottleneck analysis."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedem_jax.client.elastic import ElasticClient
from fedem_jax.core.algorithm import Elastic, State, at_place
from fedem_jax.core.table_storage import from_storage
from fedem_jax.server.serving import served, waits


def elastic(model: ElasticClient) -> Elastic:
    """Elastic merging, for the counts of rho and the bottleneck analysis."""

    def aggregated(state: State, places: Int[Array, " B"]) -> Float[Array, "B I D"]:
        slot = state.clients.slot[places]
        return from_storage(state.server.items[jnp.maximum(slot, 0)])

    def rho(state: State, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I"]:
        clients = at_place(state.clients, places)
        _, value = jax.vmap(partial(model.weighs, hyper, state.server))(clients)
        return jnp.where(waits(clients.slot)[:, None], value, 0.0)

    return Elastic(
        learned=not model.config.constant_rho,
        waits=lambda state: served(state.clients),
        rho=rho,
        aggregated=aggregated,
    )

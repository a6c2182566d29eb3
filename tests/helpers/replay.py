"""What a compiled run draws and reaches, client by client, for a loop over clients to be compared
with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sequential import Drawn, drawer

from fedem_jax.runs.simulation import Simulation

drawer_of = functools.lru_cache(maxsize=4)(drawer)
"""Compiled once for all rounds of a simulation."""


def draws_of(simulation: Simulation, number: int) -> dict[int, Drawn]:
    """By client that trains in round `number`, from 0."""
    draw = drawer_of(simulation)
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    found, config = {}, simulation.config
    for client in map(int, np.sort(draws.participants())):
        own = draw(client, number)
        if config.stragglers:
            most = draws.epochs(client, config.local_epochs, config.stragglers)
            own = own._replace(orders=own.orders[: int(most)])
        found[client] = own
    return found


def arrived_in(simulation: Simulation, number: int) -> list[int]:
    """The clients whose upload arrives in round `number`, if all participants upload."""
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    participants = draws.participants()
    arrived = draws.uploaders(participants) if simulation.config.dropout else participants
    return [int(client) for client in np.sort(arrived)]


def rounds_of(simulation: Simulation, number: int) -> list[tuple[Any, ...]]:
    """(clients, server, info, ranks, scores) after each of so many rounds on one device; float64
    where they are numbers."""
    state, reached = simulation.init(), []
    segment = simulation.segment(state, 1)
    everybody = jnp.arange(simulation.layout.num_clients)
    score = jax.jit(simulation.algorithm.score)
    for r in range(number):
        state, info, ranks = segment(state, r)
        with jax.default_matmul_precision("highest"):
            scores = score(state, everybody, simulation.algorithm.hyper)
        info = jax.tree.map(lambda leaf: leaf[0], info)
        tree = (*state, info, ranks, scores)
        reached.append(jax.tree.map(np.array, tree))
    return reached

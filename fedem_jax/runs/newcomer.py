"""Lists for a client that was not there when the run trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fedem_jax.core.algorithm import Newcomer, State
from fedem_jax.core.draws import KeyedDraws
from fedem_jax.core.layout import SizeClass
from fedem_jax.core.lists import Lists
from fedem_jax.core.samples import ClientSamples, Rule, client_samples
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation

KEY = 0x11E3
"""Folded into the key of a run's draws to make that of its newcomers."""


def newcomer_scores(
    simulation: Simulation, state: State, items: Int[np.ndarray, " n"], rounds: int
) -> Float[np.ndarray, " I"]:
    """Logits of all items, by a newcomer that has trained for so many rounds.

    Args:
        simulation: the method and its settings.
        state: parameters; of the clients nothing is used.
        items: distinct items that the newcomer interacted with.
        rounds: rounds of local epochs, each with new negatives.

    Raises:
        UserError: the method has no table for all clients, or too few items are left for negatives.
    """
    config, num_items = simulation.config, simulation.federation.num_items
    join = simulation.algorithm.newcomer
    if join is None:
        raise UserError(
            f"recommend_new: {config.method} with these settings has no table for all clients that "
            "a client could join with; fedmf, fedncf, pfedrec and fcf have one, and so has fedem "
            "where one average replaces all tables in every round."
        )
    if num_items - len(items) < config.num_negative:
        raise UserError(
            f"items: they leave only {num_items - len(items)} of {num_items:,} items to draw "
            f"{config.num_negative} distinct negatives from; give fewer."
        )
    room = 1 << int(len(items) - 1).bit_length()  # lists of similar length share a program
    lists = lists_of(items, room)
    with jax.default_matmul_precision("highest"):
        program = jax.jit(partial(_scores, simulation, join, room))
        return np.array(program(state, lists, len(items), rounds, simulation.algorithm.hyper))


def lists_of(items: Int[np.ndarray, " n"], room: int) -> Lists:
    """The lists of a federation of one client, which interacted with these items."""
    offsets = jnp.asarray([0, len(items), len(items)], jnp.int32)

    def flat(values):
        return jnp.asarray(np.pad(values, (0, 2 * room - len(values))), jnp.int32)

    return Lists(offsets, flat(items), offsets, flat(np.sort(items)))


def samples_of(
    simulation: Simulation, lists: Lists, room: int, hyper: Any
) -> Callable[[Array], ClientSamples]:
    """`round -> samples` of the newcomer whose lists these are."""
    config, num_items = simulation.config, simulation.federation.num_items
    key = jax.random.fold_in(simulation.key_draws, KEY)
    rule = Rule.of(config, jnp.asarray(getattr(hyper, "threshold", 0.0), jnp.float32))
    rule = rule._replace(stragglers=0.0)
    rows = min(room * (1 + config.num_negative), num_items)
    size = SizeClass(room, room, rows, np.zeros((1, 1), np.int32))

    def samples(number: Array) -> ClientSamples:
        draws = KeyedDraws.of_round(key, number, lists, 1, num_items, config.num_negative, 1, 1)
        return client_samples(draws, jnp.int32(0), size, num_items, rule)

    return samples


def _scores(
    simulation: Simulation, join: Callable[..., Any], room: int,
    state: State, lists: Lists, count: Int[Array, ""], rounds: Int[Array, ""], hyper: Any,
) -> Float[Array, " I"]:  # fmt: skip
    present = jnp.arange(room) < count
    items = jnp.where(present, lists.items[:room], simulation.federation.num_items)
    samples = samples_of(simulation, lists, room, hyper)
    newcomer = Newcomer(simulation.key_init, items, samples, rounds)
    return join(state, newcomer, hyper)

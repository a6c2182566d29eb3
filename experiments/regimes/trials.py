"""Many federations through one compiled program: hits of every client after each evaluated round.

The federations have the same cohorts and the same number of clients and items. Each client has as
many interactions in one as in the other. So data, seed and numbers of a trial are arguments of the
program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool

from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import hyper_of
from fedem_jax.core.lists import lists_on_device
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.ranking import rank_all
from fedem_jax.evaluation.records import Part
from fedem_jax.runs.held_out import held_out
from fedem_jax.runs.simulation import Simulation

NUMBERS = ("lr_embedding", "lr_item_factor", "rho", "common")
"""Numbers that trials of a program may differ in, beside the seed."""


class Member(NamedTuple):
    """The arguments of one trial; stacked, every leaf has the trial axis first."""

    seed: Any
    lists: Any
    held_out: Any
    hyper: Any


def hits(
    trials: Sequence[tuple[FedEM, Federation]],
    ends: Sequence[int],
    parts: Sequence[Part] = ("val_full", "test_full"),
) -> Bool[np.ndarray, "T R P C"]:
    """Whether the validation and the test item of each client is among the best K.

    Args:
        trials: settings and data of each; the settings differ in their seed and `NUMBERS` alone.
        ends: rounds after which they are evaluated, from 1, in rising order.
        parts: what is ranked, and among what; by default among all items.

    Returns:
        hits; the clients are in an order of their own, the same in all parts and trials.
    """
    program = trials[0][0].as_program(NUMBERS)
    if any(config.as_program(NUMBERS) != program for config, _ in trials):
        raise ValueError("the trials do not share a program")
    cohort = trials[0][1].cohort  # a constant of the program
    if any(not np.array_equal(federation.cohort, cohort) for _, federation in trials):
        raise ValueError("the trials do not share their cohorts")
    simulation = Simulation(program, trials[0][1], devices=jax.devices()[:1])
    method, layout = simulation.algorithm, simulation.layout
    bounds = np.array([[0, *ends[:-1]], ends], np.int32)

    def one(member: Member):
        key_init, key_draws = jax.random.split(jax.random.key(member.seed))

        def round(number, state):
            draws = simulation.draws(key_draws, number, member.lists)
            return method.round(draws, state, member.hyper)[0]

        def segment(state, bounds):
            state = lax.fori_loop(bounds[0], bounds[1], round, state)
            ranks = rank_all(
                method, layout, state, member.lists, member.held_out, member.hyper,
                simulation.ranking,
            )  # fmt: skip
            chosen = jnp.stack([getattr(ranks, part) for part in parts])
            return state, (chosen <= program.top_k) & ranks.finite.all()

        state = method.init(key_init, member.hyper)
        return lax.scan(segment, state, (bounds[0], bounds[1]))[1]

    members = [
        Member(
            np.int32(config.seed),
            lists_on_device(federation, layout),
            held_out(federation, layout)[0],
            hyper_of(type(method.hyper), config),
        )
        for config, federation in trials
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *members)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda members: lax.map(one, members))(stacked)
    return np.asarray(found)

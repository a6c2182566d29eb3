"""A round of FedEM in parts, each a program of its own, made of the project's public functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.client.local import run_epochs
from fedem_jax.config.settings import FedEM
from fedem_jax.core.algorithm import State
from fedem_jax.core.round import Change, Phase, everybody, train_clients
from fedem_jax.core.samples import Rule
from fedem_jax.evaluation.ranking import Ranking, rank_all
from fedem_jax.methods.fedem import NOT_SERVED, Upload, serve
from fedem_jax.runs.simulation import Simulation


class Phases(NamedTuple):
    """The programs, compiled; `number` counts the rounds from 0."""

    draws: Callable
    """`(state, number) -> info`: all samples and visiting orders of the round, and nothing else."""
    train: Callable
    """`(state, number) -> (clients, info)`: draws, merging, local training; takes the clients."""
    aggregate: Callable
    """`(clients, number) -> state`: the server's step; takes the clients."""
    evaluate: Callable
    """`(state) -> ranks`."""


def phases(simulation: Simulation, state: State) -> Phases:
    """The phases of a round of this simulation, compiled for states such as `state`."""
    config, layout, algorithm = simulation.config, simulation.layout, simulation.algorithm
    assert isinstance(config, FedEM)
    rules = simulation.federation.protocol
    ranking = Ranking(rules.ties, rules.scale, config.top_k)
    sizes = np.diff(simulation.federation.offsets) * (1 + config.num_negative)
    samples = jnp.asarray(layout.spread(sizes))
    given = (simulation.key_draws, simulation.lists, algorithm.hyper)

    def draws(clients, server, number, key, lists, hyper):
        drawn = simulation.draws(key, number, lists)
        rule = Rule.of(config, hyper.threshold)
        visiting = [Phase(visit, everybody, layout.classes)]
        state, participants = State(clients, server), drawn.participants()
        return train_clients(
            visiting, layout, drawn, rule, algorithm.num_items, state, participants
        )[1]

    def train(clients, server, number, key, lists, hyper):
        drawn = simulation.draws(key, number, lists)
        after, info = algorithm.round(drawn, State(clients, server), hyper)
        return after.clients._replace(slot=clients.slot), info  # the server's step is not needed

    def aggregate(clients, number, key, lists, hyper):
        drawn = simulation.draws(key, number, lists)
        chosen = layout.places(drawn.aggregated(drawn.participants()))
        upload = Upload(clients.items[chosen], samples[chosen])
        download = serve(config, layout, drawn, upload, hyper)
        table = jnp.arange(len(chosen), dtype=jnp.int32) % len(download.items)
        slot = jnp.full(layout.padded, NOT_SERVED, jnp.int32).at[chosen].set(table)
        return State(clients._replace(slot=slot), download)

    def evaluate(state, lists, held_out, hyper):
        return rank_all(algorithm, layout, state, lists, held_out, hyper, ranking)

    def compiled(phase: Callable, *args, **how):
        with jax.default_matmul_precision("highest"):
            return jax.jit(phase, **how).lower(*args).compile()

    first, asked = jnp.int32(0), (simulation.lists, simulation.held_out, algorithm.hyper)
    drawing = compiled(draws, *state, first, *given)
    training = compiled(train, *state, first, *given, donate_argnums=0)
    serving = compiled(
        aggregate,
        state.clients,
        first,
        *given,
        donate_argnums=0,
        out_shardings=simulation.shardings,
    )
    ranks = compiled(evaluate, state, *asked)
    return Phases(
        draws=lambda state, number: drawing(*state, jnp.int32(number), *given),
        train=lambda state, number: training(*state, jnp.int32(number), *given),
        aggregate=lambda clients, number: serving(clients, jnp.int32(number), *given),
        evaluate=lambda state: ranks(state, *asked),
    )


def visit(session, clients, server, id) -> Change:
    """Draw and look at every sample of every epoch; the sum keeps the compiler from skipping it."""

    def step(seen, row, present):
        return seen + jnp.sum(jnp.where(present, session.labels[row], 0.0)), jnp.float32(0)

    never_early = session.rule._replace(threshold=jnp.float32(-1))
    seen, trained = run_epochs(step, jnp.float32(0), session._replace(rule=never_early))
    return Change({}, trained._replace(loss=seen))


def parameters(simulation: Simulation, state: State, client: int) -> dict[str, Any]:
    """One client's own parameters, its table, its adapter, and the table that awaits it or None."""
    place = simulation.layout.place[client]
    own = jax.tree.map(lambda leaf: np.asarray(leaf[place]), state.clients)
    waits = own.slot != NOT_SERVED
    return {
        "private": own.private,
        "items": np.asarray(own.items, np.float32),
        "adapter": own.adapter,
        "target": np.asarray(state.server.items[own.slot], np.float32) if waits else None,
    }

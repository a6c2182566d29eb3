"""A round of FedEM in phases, each a program of its own, made of the package's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.client.local import run_epochs
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import State
from fedem_jax.core.round import Change, Phase, RoundContext, train_clients
from fedem_jax.evaluation.ranking import Ranking, rank_all
from fedem_jax.methods.fedem import Download, aggregated_tables, sent_by, slots_of
from fedem_jax.runs.simulation import Simulation
from fedem_jax.server.serving import NOT_SERVED


class Phases(NamedTuple):
    """The programs, compiled; `number` counts the rounds from 0."""

    draws: Callable
    """`(state, number) -> info`: all samples and visiting orders of the round, and nothing else."""
    train: Callable
    """`(state, number) -> (clients, info)`: draws, merging, local training; takes the clients."""
    aggregate: Callable
    """`(state, number) -> state`: the server's step; takes the clients."""
    evaluate: Callable
    """`(state) -> ranks`."""


def phases(simulation: Simulation, state: State) -> Phases:
    """The phases of a round of this simulation, compiled for states such as `state`."""
    config, layout, algorithm = simulation.config, simulation.layout, simulation.algorithm
    assert isinstance(config, FedEM)
    rules = simulation.federation.protocol
    ranking = Ranking(rules.ties, rules.scale, config.top_k)

    def context_of(number, key, lists, hyper):
        draws = simulation.draws(key, number, lists)
        return RoundContext.of(config, layout, draws, hyper.threshold)

    def draw(state, number, key, lists, hyper):
        context = context_of(number, key, lists, hyper)
        _, info, _ = train_clients(context, [Phase(look)], state)
        return info

    def train(clients, server, number, key, lists, hyper):
        draws = simulation.draws(key, number, lists)
        after, info = algorithm.round(draws, State(clients, server), hyper)
        # what the server made is not returned, so the compiler drops its step
        return after.clients._replace(slot=clients.slot), info

    def aggregate(clients, server, number, key, lists, hyper):
        context = context_of(number, key, lists, hyper)
        uploaders = context.draws.uploaders(context.participants)
        upload = sent_by(config, context, hyper, uploaders, clients, None)
        tables, _ = aggregated_tables(config, context, hyper, uploaders, upload, server)
        slot = slots_of(config, layout, uploaders)
        return State(clients._replace(slot=slot), Download(tables))

    def evaluate(state, lists, held_out, hyper):
        return rank_all(algorithm, layout, state, lists, held_out, hyper, ranking)

    def compiled(phase: Callable, *args, **how):
        with jax.default_matmul_precision("highest"):
            return jax.jit(phase, **how).lower(*args).compile()

    first, rest = jnp.int32(0), (simulation.key_draws, simulation.lists, algorithm.hyper)
    to_rank = (simulation.lists, simulation.held_out, algorithm.hyper)
    where = simulation.shardings
    drawing = compiled(draw, state, first, *rest)
    training = compiled(train, *state, first, *rest, donate_argnums=0)
    serving = compiled(aggregate, *state, first, *rest, donate_argnums=0, out_shardings=where)
    ranking_all = compiled(evaluate, state, *to_rank)
    return Phases(
        draws=lambda state, number: drawing(state, jnp.int32(number), *rest),
        train=lambda state, number: training(*state, jnp.int32(number), *rest),
        aggregate=lambda state, number: serving(*state, jnp.int32(number), *rest),
        evaluate=lambda state: ranking_all(state, *to_rank),
    )


def look(samples, clients, server, place) -> Change:
    """Draw and look at every sample of every epoch; the sum keeps the compiler from skipping it."""

    def step(seen, row, present):
        return seen + jnp.sum(jnp.where(present, samples.labels[row], 0.0)), jnp.float32(0)

    never_early = samples.rule._replace(threshold=jnp.float32(-1))
    seen, trained = run_epochs(step, jnp.float32(0), samples._replace(rule=never_early))
    return Change({}, trained._replace(loss=seen))


def parameters(simulation: Simulation, state: State, client: int) -> dict[str, Any]:
    """What the sequential twin is given of one client; `target`: the table it merges, or None."""
    place = simulation.layout.place[client]
    own = jax.tree.map(lambda leaf: np.asarray(leaf[place]), state.clients)
    served = own.slot != NOT_SERVED
    return {
        "private": own.private,
        "items": np.asarray(own.items, np.float32),
        "adapter": own.adapter,
        "target": np.asarray(state.server.items[own.slot], np.float32) if served else None,
    }

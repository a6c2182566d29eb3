"""Trials of a sweep as one compiled program: from initial parameters to the last metric.

    chunk:  `width` trials side by side (vmap), one such group after the other (lax.map)
    trial:  init, then for each evaluated round: the rounds up to it, ranks of the held-out items

Trials may differ in their seed and in the numbers that a method takes as arguments (`Hyper`).
Whatever else they differ in makes another program. All that comes back is how many clients have
each rank that a metric looks at, so that a chunk costs the host next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import Info, hyper_of
from fedem_jax.core.blocks import TRIAL
from fedem_jax.core.layout import AXIS
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.metrics import hit_rate, ndcg
from fedem_jax.evaluation.ranking import HeldOut, Ranking, Ranks, rank_all
from fedem_jax.evaluation.summary import PARTS
from fedem_jax.runs.simulation import Simulation


class Member(NamedTuple):
    """What tells a trial from its neighbours; stacked, every leaf has the trial axis first."""

    seed: Any
    split: Any
    """Which of the stack's held-out items: every seed has its own."""
    hyper: Any
    """The numbers of its settings, as the method takes them."""


class Report(NamedTuple):
    """What a trial reports of each evaluated round, R in all."""

    counts: Int[Any, "R 4 n"]
    """Clients with each rank, 1, 1.5, 2, ... K, for every one of `PARTS`."""
    loss: Float[Any, " R"]
    """Mean training loss of those that trained in the last round."""
    sound: Bool[Any, " R"]
    """False where a loss or a score was not finite."""


class Stack:
    """Runs any number of trials that differ in nothing but arguments of one program.

    Raises:
        UserError: as `fedem_jax.runs.simulation.Simulation` does.
    """

    def __init__(
        self, config: Config, federations: dict[int, Federation], width: int, chunk: int,
        devices: Sequence[Any] = (),
    ):  # fmt: skip
        """
        Args:
            config: what all trials share: their `Config.as_program`.
            federations: the data by seed, which differ in what is held out and in nothing else.
            width: trials side by side.
            chunk: trials of a call, a multiple of the width.
        """
        self.width, self.chunk = width, chunk
        self.compiling = 0.0
        """Seconds so far."""
        self.simulation = Simulation(config, next(iter(federations.values())), devices)
        self._hyper = type(self.simulation.algorithm.hyper)
        self._splits = {seed: number for number, seed in enumerate(federations)}
        self._held_out = self._asked(list(federations.values()))
        self._programs: dict[tuple[bool, bool, int], Any] = {}

    def run(
        self, configs: Sequence[Config], ends: Sequence[int], first: int = 0,
        states: Sequence[Any] = (), keep: bool = False,
    ) -> tuple[Report, list[Any]]:  # fmt: skip
        """Reports of some trials, at most a chunk, stacked, and their states.

        Args:
            configs: their settings.
            ends: the rounds after which they are evaluated, from 1, in rising order.
            first: rounds that they have behind them.
            states: theirs after those rounds; none: they begin anew.
            keep: whether their states are asked for; they come to the host.
        """
        before = _joined(self._filled(states)) if states else None
        bounds = np.array([[first, *ends[:-1]], ends], np.int32)
        args = (before, self._members(configs), bounds, self.simulation.lists, self._held_out)
        kind = (bool(states), keep, len(ends))
        if kind not in self._programs:
            begun = time.perf_counter()
            work = jax.jit(partial(self._chunk, keep))
            with jax.default_matmul_precision("highest"):
                self._programs[kind] = work.lower(*args).compile()
            self.compiling += time.perf_counter() - begun
        after, report = self._programs[kind](*args)
        report = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(configs)], report)
        if not keep:
            return report, []
        after = jax.tree.map(np.asarray, after)
        return report, [_part(after, place) for place in range(len(configs))]

    def _chunk(self, keep: bool, states, members, bounds, lists, held_out) -> tuple[Any, Report]:
        def one(state, member):
            state, report = self._one(state, member, bounds, lists, held_out)
            return state if keep else None, report

        together = one if self.width == 1 else jax.vmap(one, axis_name=TRIAL)
        if self.chunk == self.width > 1:
            return together(states, members)
        groups = (-1, *[self.width] * (self.width > 1))
        cut = jax.tree.map(lambda leaf: leaf.reshape(*groups, *leaf.shape[1:]), (states, members))
        done = lax.map(lambda group: together(*group), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(self.chunk, *leaf.shape[len(groups) :]), done)

    def _filled(self, values: Sequence[Any]) -> list[Any]:
        """As many as a chunk holds: the last one also takes the places that are left over."""
        return [*values, *[values[-1]] * (self.chunk - len(values))]

    def _one(self, state, member: Member, bounds, lists: Lists, held_out: HeldOut):
        """One trial, without the trial axis."""
        key_init, key_draws = jax.random.split(jax.random.key(member.seed))
        asked = jax.tree.map(lambda leaf: leaf[member.split], held_out)
        if state is None:
            state = self.simulation.algorithm.init(key_init, member.hyper)
        layout, method = self.simulation.layout, self.simulation.algorithm
        state = lax.with_sharding_constraint(state, self.simulation.shardings)
        rules = self.simulation.federation.protocol
        ranking = Ranking(rules.ties, rules.scale, self.simulation.config.top_k)
        present = jnp.asarray(layout.client < layout.num_clients)

        def round(number, carry):
            draws = self.simulation.draws(key_draws, number, lists)
            return method.round(draws, carry[0], member.hyper)

        def segment(state, bounds):
            first, end = bounds
            info = jax.eval_shape(round, first, (state, None))[1]
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
            state, info = lax.fori_loop(first, end, round, (state, nothing))
            ranks = rank_all(method, layout, state, lists, asked, member.hyper, ranking)
            return state, self._report(info, ranks, present)

        return lax.scan(segment, state, (bounds[0], bounds[1]))

    def _report(self, info: Info, ranks: Ranks, present: Bool[Array, " C"]) -> Report:
        trained = present & (info.epochs > 0)
        sound = ranks.finite & (jnp.isfinite(info.loss) | ~trained)
        rank = jnp.stack([getattr(ranks, part) for part in PARTS])
        levels = jnp.asarray(_ranks_to(self.simulation.config.top_k), jnp.float32)
        there = (rank[:, :, None] == levels[None, None, :]) & present[None, :, None]
        loss = jnp.where(trained, info.loss, 0.0).sum() / trained.sum()
        return Report(there.sum(axis=1), loss, (sound | ~present).all())

    def _members(self, configs: Sequence[Config]) -> Member:
        """The arguments of a chunk."""
        each = [
            Member(
                np.int32(config.seed),
                np.int32(self._splits[config.seed]),
                jax.tree.map(np.asarray, hyper_of(self._hyper, config)),
            )
            for config in self._filled(configs)
        ]
        return _joined(each)

    def _asked(self, federations: Sequence[Federation]) -> HeldOut:
        """Held-out items and candidates of every seed, on the devices: [seeds C ...]."""
        layout = self.simulation.layout
        sharding = NamedSharding(layout.mesh, PartitionSpec(None, AXIS))
        asked = [
            np.stack([layout.spread(getattr(each, name)) for each in federations])
            for name in HeldOut._fields
        ]
        return HeldOut(*jax.device_put(asked, sharding))


def _joined(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one, with the trial axis first."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _part(tree: Any, place: int) -> Any:
    """One of several trees that were joined, in memory of its own."""
    return jax.tree.map(lambda leaf: leaf[place].copy(), tree)


def metrics_of(
    counts: Int[np.ndarray, "R 4 n"], num_clients: int, k: int
) -> dict[str, Float[np.ndarray, " R"]]:
    """HR@k and NDCG@k over all clients after each evaluated round, from the counts of a report, by
    names such as `val hr@10`."""
    ranks, values = _ranks_to(k), {}
    for number, part in enumerate(PARTS):
        for name, gain in ((f"hr@{k}", hit_rate), (f"ndcg@{k}", ndcg)):
            values[f"{part} {name}"] = counts[:, number] @ gain(ranks, k) / num_clients
    return values


def _ranks_to(k: int) -> Float[np.ndarray, " n"]:
    """The ranks from 1 to k, with the halves in between that ties may give."""
    return np.arange(2, 2 * k + 1) / 2

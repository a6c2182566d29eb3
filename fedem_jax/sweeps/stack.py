"""Trials of a sweep as one compiled program: from initial parameters to the last metric.

    chunk:  `width` trials side by side (vmap), one such group after the other (lax.map)
    trial:  init, then for each evaluated round: the rounds up to it, ranks of the held-out items

Trials of a program may differ in their seed, in the numbers that a method takes as arguments
(`Hyper`), and in nothing else. A program returns only how many clients have each rank that counts
for a metric. So a chunk takes hardly any time of the host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import Info, hyper_of
from fedem_jax.core.blocks import TRIAL
from fedem_jax.core.layout import AXIS
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.metrics import hit_rate, ndcg
from fedem_jax.evaluation.ranking import HeldOut, Ranks, rank_all, weighed
from fedem_jax.evaluation.records import PARTS, Part
from fedem_jax.runs.compiling import compiled
from fedem_jax.runs.held_out import Room, held_out
from fedem_jax.runs.simulation import Simulation


class Member(NamedTuple):
    """The arguments of one trial; stacked, every leaf has the trial axis first."""

    seed: Any
    split: Any
    """Index of its held-out items; every seed has its own."""
    hyper: Any
    """Its settings that the method takes as arguments."""


class Report(NamedTuple):
    """What a trial reports of each evaluated round, R in all."""

    counts: Float[Any, "R 4 2 n"]
    """Weight of the clients at each position 1, 1.5, 2, ... K, for each of `PARTS`; for HR, and for
    NDCG. With one held-out item each, both count the clients."""
    loss: Float[Any, " R"]
    """Mean training loss of the clients that trained in the last round."""
    sound: Bool[Any, " R"]
    """False where a loss or a score was not finite."""


class Best(NamedTuple):
    """A trial at its best validation round so far."""

    state: Any
    hits: Float[Any, ""]
    """Its HR@K on validation, times the clients."""
    round: Any

    def or_later(self, state: Any, round: Any, hits: Float[Array, ""]) -> Best:
        """The later state, unless its HR@K is lower: the latest of several, as in a run."""
        choose = partial(jnp.where, hits >= self.hits)
        return jax.tree.map(choose, Best(state, hits, round), self)


class Stack:
    """Runs trials that differ only in the arguments of one program.

    Raises:
        UserError: as `fedem_jax.runs.simulation.Simulation` does.
    """

    def __init__(
        self, config: Config, federations: dict[int, Federation], width: int, chunk: int,
        devices: Sequence[Any] = (),
    ):  # fmt: skip
        """
        Args:
            config: the settings that all trials share, `Config.as_program`.
            federations: the data by seed; they differ only in what is held out.
            width: trials side by side.
            chunk: trials of a call, a multiple of the width.
            devices: JAX devices to run on; empty: all.
        """
        self.width, self.chunk = width, chunk
        self.compiling = 0.0
        """Seconds of compiling so far."""
        self.simulation = Simulation(config, next(iter(federations.values())), devices)
        self._hyper = type(self.simulation.algorithm.hyper)
        self._splits = {seed: number for number, seed in enumerate(federations)}
        self._held_out = self._all_held_out(list(federations.values()))
        self._programs: dict[tuple[bool, str, int], Any] = {}

    def run(
        self, configs: Sequence[Config], ends: Sequence[int], first: int = 0,
        states: Sequence[Any] = (), keep: Literal["", "last", "best"] = "",
    ) -> tuple[Report, list[Any]]:  # fmt: skip
        """Run at most a chunk of trials. Returns their reports, stacked, and their states.

        Args:
            configs: settings of the trials.
            ends: rounds after which they are evaluated, from 1, in rising order.
            first: rounds that they have done.
            states: their states after those rounds; empty: they start with the first round.
            keep: "last": return the last states, on the host; "best": return each trial's `Best`;
                "": return none.
        """
        before = _stacked(self._filled(states)) if states else None
        bounds = np.array([[first, *ends[:-1]], ends], np.int32)
        args = (before, self._members(configs), bounds, self.simulation.lists, self._held_out)
        kind = (bool(states), keep, len(ends))
        if kind not in self._programs:
            begun = time.perf_counter()
            program, simulation = partial(self._chunk, keep), self.simulation
            layout = simulation.layout
            self._programs[kind] = compiled(program, args, simulation.config, layout)
            self.compiling += time.perf_counter() - begun
        after, report = self._programs[kind](*args)
        report = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(configs)], report)
        if not keep:
            return report, []
        after = jax.tree.map(np.asarray, after)
        # copies, so that a kept state does not keep all others in memory
        parts = range(len(configs))
        return report, [jax.tree.map(lambda leaf, n=n: leaf[n].copy(), after) for n in parts]

    def _chunk(self, keep: str, states, members, bounds, lists, held_out) -> tuple[Any, Report]:
        def one(state, member):
            (state, best), report = self._one(
                keep == "best", state, member, bounds, lists, held_out
            )
            return {"": None, "last": state, "best": best}[keep], report

        group = one if self.width == 1 else jax.vmap(one, axis_name=TRIAL)
        if self.chunk == self.width > 1:
            return group(states, members)
        axes = (-1, *[self.width] * (self.width > 1))
        cut = jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[1:]), (states, members))
        done = lax.map(lambda args: group(*args), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(self.chunk, *leaf.shape[len(axes) :]), done)

    def _filled(self, values: Sequence[Any]) -> list[Any]:
        """As many values as a chunk holds; the last one fills the remaining places."""
        return [*values, *[values[-1]] * (self.chunk - len(values))]

    def _one(self, keep: bool, state, member: Member, bounds, lists: Lists, held_out: HeldOut):
        """Run one trial, without the trial axis; with `keep` its best state comes along."""
        key_init, key_draws = jax.random.split(jax.random.key(member.seed))
        own = jax.tree.map(lambda leaf: leaf[member.split], held_out)
        if state is None:
            state = self.simulation.algorithm.init(key_init, member.hyper)
        layout, method = self.simulation.layout, self.simulation.algorithm
        state = lax.with_sharding_constraint(state, self.simulation.shardings)
        ranking = self.simulation.ranking
        present = jnp.asarray(layout.client < layout.num_clients)

        def round(number, carry):
            draws = self.simulation.draws(key_draws, number, lists)
            return method.round(draws, carry[0], member.hyper)

        def segment(carry, bounds):
            (state, best), (first, end) = carry, bounds
            info = jax.eval_shape(round, first, (state, None))[1]
            empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
            state, info = lax.fori_loop(first, end, round, (state, empty))
            ranks = rank_all(method, layout, state, lists, own, member.hyper, ranking)
            report = self._report(info, ranks, own, present)
            if best is not None:
                best = best.or_later(state, end, (report.counts[0, 0] * hits).sum())
            return (state, best), report

        k = self.simulation.config.top_k
        hits = jnp.asarray(hit_rate(_ranks_to(k), k), jnp.float32)
        best = Best(state, jnp.float32(-1), jnp.int32(0)) if keep else None
        return lax.scan(segment, (state, best), (bounds[0], bounds[1]))

    def _report(self, info: Info, ranks: Ranks, own: HeldOut, present: Bool[Array, " C"]) -> Report:
        trained = present & (info.epochs > 0)
        sound = ranks.finite & (jnp.isfinite(info.loss) | ~trained)
        ranking = self.simulation.ranking
        levels = jnp.asarray(_ranks_to(self.simulation.config.top_k), jnp.float32)

        def counts(part: Part) -> Float[Array, "2 n"]:
            held_out = own.val if part.startswith("val") else own.test
            position, weights = weighed(ranking, held_out, getattr(ranks, part), part)
            return weights @ (position[:, None] == levels[None]).astype(weights.dtype)

        loss = jnp.where(trained, info.loss, 0.0).sum() / trained.sum()
        of_parts = jnp.stack([counts(part) for part in PARTS])
        return Report(of_parts, loss, (sound | ~present).all())

    def _members(self, configs: Sequence[Config]) -> Member:
        """The arguments of a chunk."""
        return _stacked([
            Member(
                np.int32(config.seed),
                np.int32(self._splits[config.seed]),
                jax.tree.map(np.asarray, hyper_of(self._hyper, config)),
            )
            for config in self._filled(configs)
        ])  # fmt: skip

    def _all_held_out(self, federations: Sequence[Federation]) -> HeldOut:
        """Held-out items and candidates of every seed, on the devices: [seeds C ...]."""
        layout = self.simulation.layout
        sharding = NamedSharding(layout.mesh, PartitionSpec(None, AXIS))
        rooms = [Room.of(each, layout) for each in federations]
        room = Room(max(each.val for each in rooms), max(each.test for each in rooms))
        return jax.device_put(_stacked([held_out(each, layout, room)[0] for each in federations]),
                              sharding)  # fmt: skip


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one tree, with the trial axis first."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def metrics_of(
    counts: Float[np.ndarray, "R 4 2 n"], federation: Federation, k: int
) -> dict[str, Float[np.ndarray, " R"]]:
    """HR@k and NDCG@k over the clients after each evaluated round, from the counts of a report.

    Their names are such as `val hr@10`.
    """
    ranks, values, counts = _ranks_to(k), {}, np.asarray(counts, np.float64)
    clients = {
        "val": np.count_nonzero(np.diff(federation.val_offsets)),
        "test": np.count_nonzero(np.diff(federation.test_offsets)),
    }
    for number, part in enumerate(PARTS):
        for which, (name, gain) in enumerate(((f"hr@{k}", hit_rate), (f"ndcg@{k}", ndcg))):
            total = counts[:, number, which] @ gain(ranks, k)
            values[f"{part} {name}"] = total / clients[part.removesuffix("_full")]
    return values


def _ranks_to(k: int) -> Float[np.ndarray, " n"]:
    """The ranks from 1 to k, with the half ranks that ties may give."""
    return np.arange(2, 2 * k + 1) / 2

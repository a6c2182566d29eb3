"""Trials of a sweep as one compiled program: from initial parameters to the last metric.

    chunk:  `width` trials side by side (vmap), one such group after the other (lax.map)
    trial:  init, then for each evaluated round: the rounds up to it, ranks of the held-out items

Trials may differ in their seed, in the numbers that a method takes as arguments (`Hyper`), and in
what only `init` reads; whatever else they differ in makes another program. All that comes back is
how many clients have each rank that a metric looks at, so that a chunk costs the host next to
nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.base import Info, State, numbers_of
from fedem_jax.clients import AXIS, TRIAL, Lists
from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.memory import plan_stack
from fedem_jax.methods import METHODS
from fedem_jax.metrics import CUTOFFS, hit_rate, ndcg
from fedem_jax.ranking import HeldOut, Ranking, Ranks, rank_all
from fedem_jax.summary import PARTS
from fedem_jax.train import Trial

ONLY_AT_START = ("init_scale",)
"""Settings that only `init` reads."""
SWITCHED = ("ldp_scale", "ldp_clip")
"""Numbers of `Hyper` whose 0 leaves out a part of the program."""
LEARNED = ("per-batch", "once", "none")
"""Ways of merging that are programs of their own; all others are a number, rho."""


class Member(NamedTuple):
    """What tells a trial from its neighbours; stacked, every leaf has the trial axis first."""

    seed: Int[np.ndarray, "*T"]
    split: Int[np.ndarray, "*T"]
    """Which of the stack's held-out items: every seed has its own."""
    start: Int[np.ndarray, "*T"]
    """Which of the stack's ways to begin."""
    hyper: Any


class Report(NamedTuple):
    """What a trial reports of each evaluated round, R in all."""

    counts: Int[Array, "R 4 n"]
    """Clients with each rank, 1, 1.5, 2, ... as far as any cutoff looks, for every one of
    `PARTS`."""
    loss: Float[Array, " R"]
    """Mean training loss of those that trained in the last round."""
    sound: Bool[Array, " R"]
    """False where a loss or a score was not finite."""


def hyper_of(kind: type, config: Config) -> Any:
    """The numbers of a configuration, as the method takes them; `kind` is its `Hyper`."""
    return kind.of(config) if hasattr(kind, "of") else numbers_of(kind, config)


def program_of(kind: type, config: Config) -> Config:
    """The settings with neutral values in the place of all that a program takes as an argument: two
    trials for which they are equal can be stacked. `kind` is the `Hyper` of the method."""
    numbers: tuple[str, ...] = getattr(kind, "_fields", ())
    neutral: dict[str, Any] = {"seed": 0, "out": ""}
    for field in dataclasses.fields(config):
        if field.name in numbers and field.name in SWITCHED:
            neutral[field.name] = float(getattr(config, field.name) > 0)
        elif field.name in numbers or field.name in ONLY_AT_START:
            neutral[field.name] = field.default
    if "rho" in numbers and getattr(config, "merging", "none") not in LEARNED:
        neutral["merging"] = "replace"
    return dataclasses.replace(config, **neutral)


class Stack:
    """Runs any number of trials that differ in nothing but arguments of one program.

    Raises:
        UserError: as `fedem_jax.train.Trial` does; or not even one trial fits into memory.
    """

    def __init__(
        self, configs: Sequence[Config], federations: dict[int, Federation],
        *, width: int = 0, chunk: int = 0, devices: Sequence[Any] = (),
    ):  # fmt: skip
        """
        Args:
            configs: settings of all trials that will be asked for.
            federations: the data by seed, which differ in what is held out and in nothing else.
            width: trials side by side; 0: chosen for the device.
            chunk: trials of a call; 0: as many as are side by side.
        """
        config, federation = configs[0], next(iter(federations.values()))
        layout = Trial(config, federation, devices).layout
        self.memory, most = plan_stack(config, federation, layout, len(configs))
        self.memory.check()
        config = dataclasses.replace(config, block_size=self.memory.block)
        self.trial = Trial(config, federation, devices)
        self.width = min(width or most, len(configs))
        self.chunk = self.width * max(1, min(chunk, len(configs)) // self.width)
        self.num_clients, self.top_k = federation.num_clients, config.top_k
        self.compiling = 0.0  # seconds so far
        self._hyper = type(self.trial.algorithm.hyper)
        self._starts = list(dict.fromkeys(map(_start_of, configs)))
        self._inits = [self._init_from(config, start) for start in self._starts]
        self._splits = {seed: number for number, seed in enumerate(federations)}
        self._held_out = self._asked(list(federations.values()))
        self._programs: dict[tuple[bool, int], Any] = {}

    def run(
        self, configs: Sequence[Config], ends: Sequence[int], first: int = 0, states: Any = None
    ) -> tuple[Report, Any]:
        """Reports of some trials, at most a chunk, and their states, still on the device.

        Args:
            configs: their settings.
            ends: the rounds after which they are evaluated, from 1, in rising order.
            first: rounds that they have behind them.
            states: of as many trials as a chunk holds, after those rounds; None: they begin anew.
        """
        members, goes_on = self._members(configs), states is not None
        bounds = np.array([[first, *ends[:-1]], ends], np.int32)
        rest = (members, bounds, self.trial.lists, self._held_out)
        program = self._programs.get((goes_on, len(ends)))
        if program is None:
            begun = time.perf_counter()
            work = jax.jit(self._chunk, donate_argnums=0)
            with jax.default_matmul_precision("highest"):
                program = work.lower(states, *rest).compile()
            self._programs[goes_on, len(ends)] = program
            self.compiling += time.perf_counter() - begun
        states, report = program(states, *rest)
        report = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(configs)], report)
        return report, states

    def _chunk(self, states, members, bounds, lists, held_out) -> tuple[Any, Report]:
        def one(state, member):
            return self._one(state, member, bounds, lists, held_out)

        together = one if self.width == 1 else jax.vmap(one, axis_name=TRIAL)
        if self.chunk == self.width > 1:
            return together(states, members)
        groups = (-1, *[self.width] * (self.width > 1))
        cut = jax.tree.map(lambda leaf: leaf.reshape(*groups, *leaf.shape[1:]), (states, members))
        done = lax.map(lambda group: together(*group), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(self.chunk, *leaf.shape[len(groups) :]), done)

    def _one(self, state, member: Member, bounds, lists: Lists, held_out: HeldOut):
        """One trial, without the trial axis."""
        key_init, key_draws = jax.random.split(jax.random.key(member.seed))
        asked = jax.tree.map(lambda leaf: leaf[member.split], held_out)
        if state is None:
            state = lax.switch(member.start, self._inits, key_init)
        layout, method = self.trial.layout, self.trial.algorithm
        shardings = State(layout.sharded(), layout.replicated())
        state = lax.with_sharding_constraint(state, shardings)
        rules = self.trial.federation.protocol
        ranking = Ranking(rules.ties, rules.scale, self.top_k)
        present = jnp.asarray(layout.client < layout.number)

        def round(number, carry):
            draws = self.trial.draws(key_draws, number, lists)
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
        there = (rank[:, :, None] == _levels(max(*CUTOFFS, self.top_k))) & present[None, :, None]
        loss = jnp.where(trained, info.loss, 0.0).sum() / trained.sum()
        return Report(there.sum(axis=1), loss, (sound | ~present).all())

    def _members(self, configs: Sequence[Config]) -> Member:
        """The arguments of a chunk; places that no trial fills repeat the last one."""
        configs = [*configs, *[configs[-1]] * (self.chunk - len(configs))]
        each = [
            Member(
                np.int32(config.seed),
                np.int32(self._splits[config.seed]),
                np.int32(self._starts.index(_start_of(config))),
                jax.tree.map(np.asarray, hyper_of(self._hyper, config)),
            )
            for config in configs
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    def _init_from(self, config: Config, start: tuple) -> Any:
        """The method's `init`, with these values of the settings that only `init` reads."""
        config = dataclasses.replace(config, **dict(zip(ONLY_AT_START, start, strict=True)))
        samples = jnp.zeros(self.trial.layout.padded, jnp.int32)
        num_items = self.trial.federation.num_items
        return METHODS[config.method](config, num_items, self.trial.layout, samples).init

    def _asked(self, federations: Sequence[Federation]) -> HeldOut:
        """Held-out items and candidates of every seed, on the devices: [seeds C ...]."""
        layout = self.trial.layout
        sharding = NamedSharding(layout.mesh, PartitionSpec(None, AXIS))
        asked = [
            np.stack([layout.spread(getattr(each, name)) for each in federations])
            for name in HeldOut._fields
        ]
        return HeldOut(*jax.device_put(asked, sharding))


def measured(
    report: Report, trial: int, num_clients: int, k: int
) -> dict[str, Float[np.ndarray, " R"]]:
    """HR and NDCG of one trial of a chunk after each evaluated round, in columns such as
    `val hr@10`, at `k` and at the usual cutoffs; NaN from where it is not sound."""
    counts = np.asarray(report.counts[trial], np.float64)
    lost = np.cumsum(~np.asarray(report.sound[trial])) > 0
    levels, values = _levels((counts.shape[-1] + 1) // 2).ravel(), {}
    for number, part in enumerate(PARTS):
        for cutoff in sorted({*CUTOFFS, k}):
            for name, gain in (("hr", hit_rate), ("ndcg", ndcg)):
                mean = counts[:, number] @ gain(levels, cutoff) / num_clients
                values[f"{part} {name}@{cutoff}"] = np.where(lost, np.nan, mean)
    return values


def _levels(depth: int) -> Float[np.ndarray, "1 1 n"]:
    """The ranks from 1 to `depth`, with the halves in between that ties may give."""
    return np.arange(2, 2 * depth + 1, dtype=np.float32)[None, None, :] / 2


def _start_of(config: Config) -> tuple:
    return tuple(getattr(config, name) for name in ONLY_AT_START)

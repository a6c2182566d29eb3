"""The run: segments of rounds compiled into one program each, evaluated, recorded, summed up."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jaxtyping import Array

from fedem_jax import __version__
from fedem_jax.base import Info, State
from fedem_jax.clients import Layout, Lists, Need, lay_out, lists_on_device
from fedem_jax.config import Config
from fedem_jax.course import Course, Keeper
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.draws import Draws, Fresh
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.finite import finite_state
from fedem_jax.memory import advice_when_exhausted, plan_memory
from fedem_jax.methods import METHODS
from fedem_jax.metrics import coverage, summarise
from fedem_jax.ranking import HeldOut, Ranking, Ranks, rank_all
from fedem_jax.record import RunDirectory
from fedem_jax.rho import counter
from fedem_jax.summary import best_round, per_client, summarise_run


@runtime_checkable
class Observer(Protocol):
    """Whoever watches a run: a progress bar, a run directory."""

    def start(self, setting: dict[str, Any]) -> None:
        """Before anything is compiled."""

    def record(self, record: dict[str, Any]) -> None:
        """After each evaluated round."""

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None:
        """After the last round; `per_client` as in `Result`."""


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    config: Config
    federation: Federation
    records: list[dict[str, Any]]
    """One record per evaluated round; with `rho`, counts as in `fedem_jax.rho`, where rho is
    learned."""
    summary: dict[str, Any]
    """Headline at the best validation round; best test value under its own name; settings."""
    per_client: pd.DataFrame
    """Ranks of every client at the best validation round; see `fedem_jax.summary.per_client`."""
    state: State
    """Parameters of clients and server after the last round; the clients in order of place."""
    layout: Layout
    """Where each client is: `layout.place`."""

    @property
    def curve(self) -> pd.DataFrame:
        """The records as a table: one row per evaluated round, columns such as `test hr@10`."""
        flat = pd.json_normalize(self.records, sep=" ")
        return flat.set_index("round").drop(columns="rho", errors="ignore")


def run(
    config: Config,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
    directory: RunDirectory | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Result:
    """Train and evaluate a federated method.

    Args:
        config: all settings.
        federation: the data; None: what `config` names.
        observers: told of the start, of every evaluated round and of the end.
        directory: where the run is written down and, if it is cut off, taken up again.
        stop: asked before every segment of rounds; the number of a signal ends the run there.

    Raises:
        UserError: unusable data, a list as long as the ranking, numbers that ceased to be finite, a
            device without the memory, or a disk that takes no more.
        CannotResume: what `directory` holds cannot be gone on with.
        Stopped: `stop` asked for it; what was reached is in `directory`.
    """
    if federation is None:
        federation = federation_of(config)
    check_list(config, federation)
    trial = Trial(config, federation)
    setting = {
        "config": config,
        "federation": federation,
        "device": device_name(),
        "versions": versions(),
    }
    watching = [*([directory] if directory else ()), *observers]
    with ExitStack() as open_until_the_end:
        if directory is not None:
            open_until_the_end.enter_context(directory)
        for observer in watching:
            observer.start(setting)
        keeper = None
        if directory is not None:
            keeper = open_until_the_end.enter_context(Keeper(directory, trial, setting))
        try:
            with advice_when_exhausted(trial.memory, config, federation, trial.layout):
                course = (keeper.taken_up() if keeper else None) or Course(trial.init())
                go_through(trial, course, watching, keeper, stop)
        except CannotResume:
            raise
        except UserError as error:
            kept = keeper.kept() if keeper else ""
            raise UserError(f"{error} {kept}".rstrip()) from None
        assert course.best is not None
        clients = per_client(federation, course.best)
        summary = summarise_run(config, federation, course.records, clients) | {
            "compile_seconds": course.compile_seconds,
            "seconds_per_round": course.seconds / config.rounds,
            "resumed": course.resumed,
            "device": setting["device"],
            "versions": setting["versions"],
        }
        for observer in watching:
            observer.finish(summary, clients)
    return Result(config, federation, course.records, summary, clients, course.state, trial.layout)


def go_through(
    trial: Trial,
    course: Course,
    watching: Sequence[Observer],
    keeper: Keeper | None,
    stop: Callable[[], int],
) -> None:
    """The rounds that a run has left, segment after segment; `course` is moved on, and kept."""
    config = trial.config
    count_rho = counter(trial.algorithm, trial.federation, trial.layout, trial.lists)
    while course.round < config.rounds:
        length = min(config.eval_every, config.rounds - course.round)
        begun = time.perf_counter()
        segment = trial.segment(course.state, length)
        ready = time.perf_counter()
        course.compile_seconds += ready - begun
        if number := stop():
            if keeper is not None:
                keeper.keep(course, at_once=True)
                keeper.wait()
            raise Stopped(number)
        course.state, info, ranks = jax.block_until_ready(segment(course.state, course.round))
        took = time.perf_counter() - ready
        course.round, course.seconds = course.round + length, course.seconds + took
        record = trial.record(course.round, info, ranks) | {"seconds": took / length}
        if count_rho is not None:
            record["rho"] = count_rho(course.state).tolist()
        course.records.append(record)
        if best_round(course.records, config.top_k) is record:
            course.best = trial.by_client(ranks)
        for observer in watching:
            observer.record(record)
        if keeper is not None:
            keeper.keep(course, at_once=course.round == config.rounds)
    if keeper is not None:
        keeper.wait()


class Trial:
    """A method bound to a configuration, a federation and the devices that it runs on.

    Raises:
        UserError: a client leaves fewer items to draw from than a positive has negatives.
    """

    def __init__(self, config: Config, federation: Federation, devices: Sequence[Any] = ()):
        check_pool(config, federation)
        devices = (devices or jax.devices())[: federation.num_clients]
        self.config, self.federation = config, federation
        layout = lay_out(
            federation,
            Need.of(federation, config.num_negative, config.batch_size),
            devices=devices,
            num_classes=config.size_classes,
            block=1,
        )
        self.memory = plan_memory(config, federation, layout)
        self.layout = layout._replace(block=self.memory.block)
        samples = np.diff(federation.offsets) * (1 + config.num_negative)
        self.algorithm = METHODS[config.method](
            config, federation.num_items, self.layout, jnp.asarray(self.layout.spread(samples))
        )
        self.key_init, self.key_draws = jax.random.split(jax.random.key(config.seed))
        self.lists = lists_on_device(federation, self.layout)
        self.held_out = held_out(federation, self.layout)
        self._segments: dict[int, Any] = {}

    def init(self) -> State:
        """The state before the first round, sharded over the devices.

        Raises:
            UserError: the run does not fit into the memory of a device; says what would.
        """
        self.memory.check()
        with jax.default_matmul_precision("highest"):
            return jax.jit(self.algorithm.init, out_shardings=self.shardings)(self.key_init)

    @property
    def shardings(self) -> State:
        """Where the state is: clients over the devices, the server's part on each."""
        return State(self.layout.sharded(), self.layout.replicated())

    def draws(self, key: Array, number: Array, lists: Lists) -> Draws:
        """What decides the random choices of round `number`."""
        config, clients = self.config, self.layout.number
        sizes = (clients, self.federation.num_items, config.num_negative)
        return Fresh.of_round(key, number, lists, *sizes, *config.round_sizes(clients))

    def segment(self, state: State, length: int) -> Callable[[State, int], Segment]:
        """`length` rounds and an evaluation as one compiled program; the state is donated."""
        if length not in self._segments:
            rest = (self.key_draws, self.lists, self.held_out, self.algorithm.hyper)
            program = jax.jit(partial(self._rounds, length), donate_argnums=0)
            with jax.default_matmul_precision("highest"):
                compiled = program.lower(state, jnp.int32(0), *rest).compile()
            self._segments[length] = lambda state, start: compiled(state, jnp.int32(start), *rest)
        return self._segments[length]

    def _rounds(self, length, state, start, key, lists, held_out, hyper) -> Segment:
        def one(state, number):
            return self.algorithm.round(self.draws(key, number, lists), state, hyper)

        state, info = lax.scan(one, state, start + jnp.arange(length, dtype=jnp.int32))
        state = lax.with_sharding_constraint(state, self.shardings)  # as the next segment takes it
        rules = self.federation.protocol
        ranking = Ranking(rules.ties, rules.scale, self.config.top_k)
        ranks = rank_all(self.algorithm, self.layout, state, lists, held_out, hyper, ranking)
        sound = ranks.finite & finite_state(state, self.layout.padded)
        return Segment(state, info, ranks._replace(finite=sound))

    def by_client(self, tree: Any) -> Any:
        """Arrays that have the client axis first, in the order of the federation, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[self.layout.place], tree)

    def record(self, round: int, info: Info, ranks: Ranks) -> dict[str, Any]:
        """What is written down after evaluated round `round`, from 1.

        Raises:
            UserError: losses or scores are not finite; names round, client and likely cause.
        """
        place, k = self.layout.place, self.config.top_k
        loss, epochs = np.asarray(info.loss[-1])[place], np.asarray(info.epochs[-1])[place]
        by_client: Any = self.by_client(ranks)
        trained = epochs > 0
        sound = by_client.finite & (np.isfinite(loss) | ~trained)
        if not sound.all():
            lost = int(np.flatnonzero(~sound)[0])
            diverged = not np.isfinite(loss[trained]).all()
            what = "losses" if diverged else "parameters or scores"
            settings = dataclasses.asdict(self.config).items()
            steps = [
                f"{name} (now {value:g})"
                for name, value in settings
                if name.startswith("lr_") or (name == "init_scale" and not diverged)
            ]
            raise UserError(
                f"round {round}: client {lost} (user {self.federation.user_ids[lost]}) and "
                f"{(~sound).sum() - 1} more have {what} that are not finite "
                f"({'training diverged' if diverged else 'they saturate float32'}); "
                f"a smaller {' or '.join(steps)} usually helps."
            )
        skipped = {}
        if info.skipped is not None:
            skipped = {"skipped": int(np.asarray(info.skipped).sum())}
            if not trained.any():
                raise UserError(
                    f"round {round}: all clients that trained were skipped, so nothing is learned; "
                    f"a smaller step size helps."
                )
        return skipped | {
            "round": round,
            "loss": float(loss[trained].mean()),
            "epochs": float(epochs[trained].mean()),
            "val": summarise(by_client.val, k),
            "test": summarise(by_client.test, k),
            "val_full": summarise(by_client.val_full, k),
            "test_full": summarise(by_client.test_full, k),
            "coverage": coverage(by_client.listed, self.federation.num_items),
            "bytes_up": self.algorithm.traffic.up,
            "bytes_down": self.algorithm.traffic.down,
            "protocol": self.federation.protocol.name,
            "fingerprint": self.federation.fingerprint,
        }


class Segment(NamedTuple):
    """What a compiled segment returns."""

    state: State
    info: Info
    """Of every round: [length C]."""
    ranks: Ranks
    """After the last round."""


def held_out(federation: Federation, layout: Layout) -> HeldOut:
    """Held-out items and candidates on the device."""
    asked = [layout.spread(getattr(federation, name)) for name in HeldOut._fields]
    return HeldOut(*jax.device_put(asked, layout.sharded()))


def check_pool(config: Config, federation: Federation) -> None:
    """Refuse a federation that leaves a client too few items to draw distinct negatives from."""
    pool = federation.num_items - np.diff(federation.barred_offsets)
    tightest = int(pool.argmin())
    if pool[tightest] < config.num_negative:
        raise UserError(
            f"user {federation.user_ids[tightest]}: only {pool[tightest]} items are left to draw "
            f"{config.num_negative} distinct negatives from; lower num_negative."
        )


def check_list(config: Config, federation: Federation) -> None:
    """Refuse a list in which every held-out item stands, whatever its rank among the candidates:
    rounds would be chosen, and methods compared, by a number that is always 1."""
    shortest = min(federation.val_candidates.shape[1], federation.test_candidates.shape[1])
    if config.top_k > shortest:
        raise UserError(
            f"top_k: among {shortest} candidates and the held-out item every rank is at most "
            f"{shortest + 1}, so HR@{config.top_k} is always 1; give a smaller top_k."
        )


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    own = {"fedem_jax": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}


def device_name() -> str:
    """Kind and number of the devices in use."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"

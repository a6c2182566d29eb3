"""A method bound to settings, data and devices; its compiled segments of rounds."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from fedem_jax.client.paths import with_path
from fedem_jax.config.base import FILES, Config
from fedem_jax.config.plugins import is_shipped
from fedem_jax.config.registry import METHODS
from fedem_jax.config.shared import is_fused
from fedem_jax.core.algorithm import Info, State
from fedem_jax.core.devices import all_devices
from fedem_jax.core.draws import Draws, KeyedDraws
from fedem_jax.core.finite import finite_state
from fedem_jax.core.layout import Layout
from fedem_jax.core.lists import Lists, lists_on_device
from fedem_jax.core.processes import (
    check_same,
    copied_to_host,
    on_all,
    on_host,
    own_device,
    several,
)
from fedem_jax.core.size_classes import ClientLoad, lay_out
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.exposure import exposure
from fedem_jax.evaluation.metrics import summarise
from fedem_jax.evaluation.ranking import Ranking, Ranks, check_cutoff, held_out_ranks, rank_all
from fedem_jax.evaluation.records import Metrics, Part, Record
from fedem_jax.evaluation.rho import counter
from fedem_jax.methods import bind
from fedem_jax.runs.compiling import compiled, identity, kinds, remembered
from fedem_jax.runs.held_out import held_out, most_held_out
from fedem_jax.runs.host_memory import bytes_on_host
from fedem_jax.runs.memory import USABLE, bound, bytes_of, plan_memory
from fedem_jax.version import __version__

FUSED_CLASSES = 3
"""Size classes of clients that a kernel trains: each costs seconds of compilation and a launch."""

CLASS_SECONDS, NUMBER_SECONDS = 2.5, 5e-9
"""On a core of a CPU: what a class takes to compile, and a local step for each number of a row.
Measured for FedEM with one class and with five, on FilmTrust and ML-100K, on 2 cores of an AMD
EPYC."""


class Simulation:
    """A method bound to its settings, a federation and the devices that it runs on.

    Raises:
        UserError: a client has too few items to draw the negatives of a positive from.
    """

    client_memory: ClassVar[str] = "device"
    """Where the state of the clients is, whatever the settings say."""

    def __init__(
        self,
        config: Config,
        federation: Federation,
        devices: Sequence[Any] = (),
        draws: Callable[..., Draws] = KeyedDraws.of_round,
    ):
        """
        Args:
            devices: JAX devices to run on; empty: all.
            draws: makes the random choices of a round; called like `KeyedDraws.of_round`.
        """
        check_pool(config, federation)
        check_processes(config, federation)
        self.config, self.federation, self._draws = config, federation, draws
        layout = layout_of(config, federation, devices)
        where_it_is = dataclasses.replace(config, client_memory=self.client_memory)
        self.memory = plan_memory(where_it_is, federation, layout)
        self.layout = layout._replace(block=self.memory.block)
        self.algorithm = self._bound = bind(config, self.layout)
        self.key_init, self.key_draws = jax.random.split(jax.random.key(config.seed))
        self.lists = lists_on_device(federation, self.layout)
        items, self._rows = held_out(federation, self.layout)
        self.held_out = on_all(items, self.layout.sharded())
        rules, most = federation.protocol, most_held_out(federation)
        scale = rules.scale if self.algorithm.log_odds else "logit"
        self.ranking = Ranking(rules.ties, scale, config.top_k, most)
        self._segments: dict[int, Any] = {}
        self._rank = jax.jit(self._ranks)

    def init(self) -> State:
        """The state before the first round, sharded over the devices.

        Raises:
            UserError: the run does not fit into the memory of a device; says what would fit.
        """
        self.memory.check()
        args = (self.key_init, self.algorithm.hyper)
        return self._compiled("init", self._start, args)(*args)

    def _start(self, key, hyper) -> State:
        return lax.with_sharding_constraint(self.algorithm.init(key, hyper), self.shardings)

    def copy(self, state: State) -> State:
        """A copy that stays when the state is donated: on the devices where there is room for two,
        else on the host, as NumPy arrays."""
        room = USABLE * self.memory.limit - self.memory.total
        to = jnp.copy if self.memory.clients + self.memory.server <= room else copied_to_host
        return jax.tree.map(to, state)

    def restored(self, copy: State) -> State:
        """A state on the devices, of what `copy` returned."""
        return on_all(copy, self.shardings)

    @cached_property
    def shapes(self) -> State:
        """Shapes and types of the state."""
        return jax.eval_shape(self.algorithm.init, self.key_init, self.algorithm.hyper)

    @cached_property
    def shardings(self) -> State:
        """Clients are spread over the devices. Every device holds the server's part, but for tables
        that wait for clients of other devices."""
        return State(self.layout.sharded(), self.layout.of_server(self.shapes.server))

    def draws(self, key: Array, number: Array, lists: Lists) -> Draws:
        """The random choices of round `number`."""
        config, clients = self.config, self.layout.num_clients
        sizes = (clients, self.federation.num_items, config.num_negative)
        return self._draws(key, number, lists, *sizes, *config.round_sizes(clients))

    def segment(self, state: State, length: int) -> Callable[[State, int], Segment]:
        """`length` rounds and an evaluation as one compiled program; the state is donated."""
        if length not in self._segments:
            rest = self.unchanging
            program = self.program(length, state)
            self._segments[length] = lambda state, start: program(state, jnp.int32(start), *rest)
        return self._segments[length]

    def program(self, length: int, state: State) -> Callable[..., Segment]:
        """The compiled program of a segment: `(state, start, *unchanging) -> Segment`.

        Runs that differ in the seed alone share it, if their clients have as many samples.

        Args:
            length: number of rounds.
            state: the state, or its shapes; it is donated.
        """
        args = (state, jnp.int32(0), *self.unchanging)
        return self._compiled(length, partial(self._rounds, length), args, donate=(0,))

    def _compiled(
        self, name: Hashable, program: Callable[..., Any], args: tuple, donate: tuple = ()
    ) -> Callable[..., Any]:
        """A program of this simulation, compiled; simulations that differ in the seed share it.

        Args:
            name: of the program, among those of a simulation.
            program: what is traced.
            args: its arguments, or their shapes with shardings.
            donate: numbers of the arguments whose memory it may take over.
        """

        def compile() -> Callable[..., Any]:
            return compiled(program, args, self.config, self.layout, donate)

        if not self._is_shipped():
            return compile()
        config = dataclasses.replace(self.config, seed=0, out="", start="")
        key = (config, name, self.ranking, identity(self.layout), kinds(args))
        return remembered(key, compile)

    def _is_shipped(self) -> bool:
        """Whether nothing but this package decides what a round computes. The code of others may
        change from one run to the next, as a cell of a notebook does."""
        shipped = isinstance(METHODS[self.config.method].algorithm, str) and is_shipped(self.config)
        own = type(self).__module__.startswith("fedem_jax.") and self.algorithm is self._bound
        return shipped and own and self._draws == KeyedDraws.of_round

    @property
    def unchanging(self) -> tuple:
        """Arguments of a segment that stay the same: key, lists, held-out items and numbers."""
        return self.key_draws, self.lists, self.held_out, self.algorithm.hyper

    def _rounds(self, length, state, start, key, lists, held_out, hyper) -> Segment:
        def one(state, number):
            return self.algorithm.round(self.draws(key, number, lists), state, hyper)

        state, info = lax.scan(one, state, start + jnp.arange(length, dtype=jnp.int32))
        state = lax.with_sharding_constraint(state, self.shardings)  # as the next segment needs it
        return Segment(state, info, self._ranks(state, lists, held_out, hyper))

    def _ranks(self, state, lists, held_out, hyper) -> Ranks:
        ranks = rank_all(self.algorithm, self.layout, state, lists, held_out, hyper, self.ranking)
        sound = ranks.finite & finite_state(state, self.layout.padded)
        return ranks._replace(finite=sound)

    def rank(self, state: State) -> Ranks:
        """Ranks of all held-out items, in the order of the federation."""
        with jax.default_matmul_precision("highest"):
            ranks = self._rank(state, self.lists, self.held_out, self.algorithm.hyper)
        return self.in_order(ranks)

    def counter_of_rho(self) -> Callable[[State], np.ndarray] | None:
        """`(state) -> counts` of rho, as `evaluation.rho.counter` makes it."""
        return counter(self.algorithm, self.federation, self.layout, self.lists)

    def brought(self, state: State, places: Int[np.ndarray, " n"]) -> tuple[State, np.ndarray]:
        """A state on the devices that holds some clients, and their places in it.

        Args:
            state: of this simulation.
            places: an equal part for each device, counted from its first place.
        """
        return state, places

    def by_client(self, tree: Any) -> Any:
        """Arrays with the client axis first, brought to the host in the federation's order."""
        return jax.tree.map(lambda leaf: leaf[self.layout.place], on_host(tree))

    def in_order(self, ranks: Ranks) -> Ranks:
        """Ranks on the host, in the federation's order of held-out items and of clients."""
        val, test = self._rows
        rows = {"val": val, "test": test, "val_full": val, "test_full": test}
        leaves: dict[str, Any] = {
            name: leaf[rows.get(name, self.layout.place)]
            for name, leaf in on_host(ranks._asdict()).items()
        }
        return Ranks(**leaves)

    def record(self, round: int, info: Info, ranks: Ranks) -> Record:
        """The record of evaluated round `round`, counted from 1.

        Raises:
            UserError: numbers are not finite; the message names round, client and likely cause.
                Or every client that trained was skipped.
        """
        place, k, info = self.layout.place, self.config.top_k, on_host(info)
        loss, epochs = info.loss[-1][place], info.epochs[-1][place]
        ordered: Any = self.in_order(ranks)
        trained = epochs > 0
        sound = ordered.finite & (np.isfinite(loss) | ~trained)
        if not sound.all():
            lost = int(np.flatnonzero(~sound)[0])
            diverged = not np.isfinite(loss[trained]).all()
            kind = "losses" if diverged else "parameters or scores"
            settings = dataclasses.asdict(self.config).items()
            steps = [
                f"{name} (now {value:g})"
                for name, value in settings
                if name.startswith("lr_") or (name == "init_scale" and not diverged)
            ]
            cause = "training diverged" if diverged else "they saturate float32"
            advice = f"({cause}); a smaller {' or '.join(steps)} usually helps"
            raise UserError(
                f"round {round}: client {lost} (user {self.federation.user_ids[lost]}) and "
                f"{(~sound).sum() - 1} more have {kind} that are not finite "
                f"{self.config.if_not_finite or advice}."
            )
        if info.skipped is not None and not trained.any():
            raise UserError(
                f"round {round}: all clients that trained were skipped, so nothing is learned; "
                "a smaller step size helps."
            )

        shown = exposure(ordered.listed, self.federation)

        def metrics(part: Part) -> Metrics:
            rank = getattr(ordered, part)
            return summarise(held_out_ranks(self.federation, part, rank), k)

        record: Record = {
            "round": round,
            "loss": float(loss[trained].mean()),
            "epochs": float(epochs[trained].mean()),
            "val": metrics("val"),
            "test": metrics("test"),
            "val_full": metrics("val_full"),
            "test_full": metrics("test_full"),
            "coverage": shown["coverage"],
            "gini": shown["gini"],
            "novelty": shown["novelty"],
            "bytes_up": self.algorithm.traffic.up,
            "bytes_down": self.algorithm.traffic.down,
            "protocol": self.federation.protocol.name,
            "fingerprint": self.federation.fingerprint,
        }
        if info.skipped is not None:
            record["skipped"] = int(info.skipped.sum())
        if self.config.dropout:
            participants, _ = self.config.round_sizes(self.layout.num_clients)
            record["dropped"] = self.config.lost(self.config.uploads(participants))
        return record


def layout_of(config: Config, federation: Federation, devices: Sequence[Any] = ()) -> Layout:
    """The clients of a federation on these devices; the block is not chosen yet.

    A kernel that trains whole clients pads none of its work, so few classes do. It starts with the
    longest ones, so that the others fill the device at the end.

    Args:
        devices: empty: all. No more of them are taken than there are clients.
    """
    devices = (devices or all_devices())[: federation.num_clients]
    fused = is_fused(with_path(config, own_device(devices)))
    return lay_out(
        federation,
        ClientLoad.of(federation, config.num_negative, config.batch_size),
        devices=devices,
        num_classes=config.size_classes or (FUSED_CLASSES if fused else 0),
        block=1,
        longest_first=fused,
        price=class_price(config, devices),
    )


def class_price(config: Config, devices: Sequence[Any]) -> float:
    """What a size class has to save to be worth its compilation, in local steps of a round times
    rows. On an accelerator it is nothing, since padding costs more there than compiling."""
    if devices[0].platform != "cpu":
        return 0.0
    work = config.rounds * config.client_fraction * config.local_epochs * config.dim
    return CLASS_SECONDS * len(devices) / (NUMBER_SECONDS * work)


def kept_bytes(config: Config, federation: Federation, layout: Layout | None = None) -> int:
    """Bytes on disk of the states that a run keeps at most: two, each of all parameters.

    Raises:
        UserError: the method cannot run on this federation.
    """
    if config.keep == "none":
        return 0
    layout = layout or layout_of(config, federation)
    algorithm, state = bound(config, layout)
    clients = bytes_of(state.clients)
    if config.clients_on_host:
        clients = bytes_on_host(config, federation, layout, algorithm, state.clients)
    return min(2, config.rounds) * (clients + bytes_of(state.server))


class Segment(NamedTuple):
    """What a compiled segment returns."""

    state: State
    info: Info
    """Of every round: [length C]."""
    ranks: Ranks
    """After the last round."""


def check_pool(config: Config, federation: Federation) -> None:
    """Refuse a federation in which a client has too few items to draw distinct negatives from."""
    pool = federation.num_items - np.diff(federation.barred_offsets)
    tightest = int(pool.argmin())
    if pool[tightest] < config.num_negative:
        raise UserError(
            f"user {federation.user_ids[tightest]}: only {pool[tightest]} items are left to draw "
            f"{config.num_negative} distinct negatives from; lower num_negative."
        )


def check_processes(config: Config, federation: Federation) -> None:
    """Refuse processes that would not run the same rounds.

    Raises:
        UserError: they have other settings or other data, or there are more devices than clients.
    """
    if not several():
        return
    files = dict.fromkeys(("dataset", *FILES, "out", "start"), "")
    settings = dataclasses.asdict(config) | files
    machine = jax.local_devices()[0].device_kind, versions()
    check_same(repr(settings), "different settings", "give all of them the same command")
    check_same(repr(machine), "different devices or packages", "start them on machines of one kind")
    check_same(federation.fingerprint, "different data", "give all of them the same file and seed")
    if federation.num_clients < len(jax.devices()):
        raise UserError(
            f"processes: {len(jax.devices())} devices share {federation.num_clients} clients; "
            "start fewer processes."
        )


def check_list(config: Config, federation: Federation) -> None:
    """Refuse a list in which every held-out item stands (`check_cutoff`)."""
    check_cutoff("top_k", config.top_k, federation)


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on."""
    own = {"fedem_jax": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}


def device_name(devices: Sequence[Any] = ()) -> str:
    """Number and kind of the devices, and of processes if there are several; empty: of all."""
    devices = devices or jax.devices()
    processes = len({device.process_index for device in devices})
    name = f"{len(devices)} x {devices[0].device_kind}"
    return f"{name} in {processes} processes" if processes > 1 else name

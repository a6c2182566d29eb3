"""How much memory a run takes, and how many clients are trained side by side.

memory of a device = state + data + scratch of the round's largest phase
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from fedem_jax.client.paths import with_path
from fedem_jax.config.base import Config
from fedem_jax.config.shared import AdamClients, is_fused
from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.devices import AbsentDevice
from fedem_jax.core.host_rows import shapes_of_rows
from fedem_jax.core.layout import Layout, is_per_device
from fedem_jax.core.processes import processes_here, several, smallest
from fedem_jax.core.residents import Seats, places_needed, residents_of
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.methods import bind
from fedem_jax.runs.held_out import Room
from fedem_jax.runs.host_memory import bytes_on_host
from fedem_jax.units import in_bytes

WIDEST_BLOCK = 256
"""Most clients side by side on an accelerator."""
WIDEST_FUSED = 2048
"""The same where a kernel trains each of them: the more, the fewer launches."""
CACHE = 50_000_000
"""Bytes of a GPU's second-level cache (H100: 50 MB). XLA moves tables and moments of
all clients of a block at every step, which is faster while they stay in it."""
NARROWEST_BLOCK = 16
"""Fewest clients side by side on an accelerator, where stacked trials fill the rest."""
MEGABYTE = 1_000_000
USABLE = 0.9
"""Share of a device's memory that a run may plan with."""


class MemoryPlan(NamedTuple):
    """Bytes on each device."""

    clients: int
    """Parameters of the device's clients: mostly C I D numbers, shared out over the devices."""
    server: int
    """The server's tables. Every device holds them whole, but for those that wait for clients of
    other devices."""
    data: int
    """Ragged lists and held-out items."""
    scratch: dict[str, int]
    """Working memory of each phase of a round. Phases run one at a time."""
    limit: int
    """Memory that the device offers."""
    devices: int
    block: int
    """Clients trained side by side."""
    advice: str
    """What would fit, if this does not; else empty."""
    host: int = 0
    """Bytes in the memory of the host, if the clients' state is kept there: that of all clients, a
    copy at the best round, one that is written to disk, and rows on their way. Item tables count by
    the rows that the rounds move on average. Then `clients` are those of two groups of residents:
    one at work, one on its way."""
    saved: int = 0
    """Bytes that each device would need for its clients beyond `clients`, if they were on it."""
    host_limit: int | None = None
    """Memory that the host offers beside what devices of a CPU take; None: it is not known."""

    @property
    def total(self) -> int:
        """State, data and the largest phase."""
        return self.clients + self.server + self.data + max(self.scratch.values())

    @property
    def fits(self) -> bool:
        """Whether the run leaves a tenth of the device, and of the host, free."""
        return self.total <= USABLE * self.limit and self.fits_host

    @property
    def fits_host(self) -> bool:
        """Whether what is kept on the host fits there."""
        return self.host_limit is None or self.host <= USABLE * self.host_limit

    def check(self) -> None:
        """Refuse a run that does not fit.

        Raises:
            UserError: it does not fit. The message says what is needed, and what would fit.
        """
        if not self.fits_host:
            raise UserError(
                f"memory: the clients' state needs {in_bytes(self.host)} on the host, but only "
                f"{in_bytes(USABLE * max(0, self.host_limit or 0))} can be used; {self.advice}."
            )
        if not self.fits:
            raise UserError(
                f"memory: the run needs {in_bytes(self.total)} on each of {self.devices} devices "
                f"(clients' tables {in_bytes(self.clients)}, server's tables "
                f"{in_bytes(self.server)}, scratch {in_bytes(max(self.scratch.values()))}), but "
                f"only {in_bytes(USABLE * self.limit)} can be used; {self.advice}."
            )


def plan_memory(
    config: Config,
    federation: Federation,
    layout: Layout,
    limit: int | None = None,
    stacked: bool = False,
) -> MemoryPlan:
    """What a run takes on each device, and the block size with which it fits.

    The block is `config.block_size` if that is set. Else it is mostly 1 on a CPU, where one
    client's table stays in the cache of its core (`Config.block_on_cpu`). Elsewhere it is the
    largest power of two that fits. Where clients wait on the host, it is also less than twice the
    participants of a round: an evaluation brings as many clients to the device as a block holds.

    Args:
        layout: devices and size classes; its block is ignored.
        limit: bytes that each device offers; None: as `device_memory` says.
        stacked: whether it is one of several stacked trials, whose clients are on the devices.
    """
    limit = device_memory(layout) if limit is None else limit
    plan = _choose_block(config, federation, layout, limit)
    if plan.fits:
        return plan
    return plan._replace(advice=_advice(config, federation, layout, plan, stacked))


def plan_stack(
    config: Config, federation: Federation, layout: Layout, trials: int, limit: int | None = None
) -> tuple[MemoryPlan, int]:
    """What one of several stacked trials takes on each device, and how many fit side by side.

    On a CPU one trial runs at a time, since it keeps all cores busy. Elsewhere as many trials as
    possible run side by side, each with the largest block that leaves room for all of them.

    Args:
        config: all settings.
        federation: the data.
        layout: devices and size classes; its block is ignored.
        trials: number of trials to stack.
        limit: bytes that each device offers; None: as `device_memory` says.
    """
    limit = device_memory(layout) if limit is None else limit
    plan, width = plan_memory(config, federation, layout, limit, stacked=True), 1
    if on_cpu(layout) or not plan.fits:
        return plan, width
    algorithm, state = bound(config, layout)
    block = plan.block
    while block >= NARROWEST_BLOCK:
        other = _with_block(config, federation, layout, algorithm, state, limit, block)
        room = int(USABLE * limit - other.data) // (other.total - other.data)
        if min(room, trials) > width:
            plan, width = other, min(room, trials)
        block = 0 if config.block_size else block // 2
    return plan, width


def _choose_block(config: Config, federation: Federation, layout: Layout, limit: int) -> MemoryPlan:
    """The plan with the largest block that fits; the smallest block if none does."""
    algorithm, state = bound(config, layout)
    block = config.block_size or _for_residents(_widest(config, layout), config, layout)
    while True:
        plan = _with_block(config, federation, layout, algorithm, state, limit, block)
        if plan.fits or config.block_size or block == 1:
            return plan
        block //= 2


def _widest(config: Config, layout: Layout) -> int:
    """The widest block that is worth its memory."""
    if on_cpu(layout):
        return config.block_on_cpu
    if not isinstance(config, AdamClients):
        return WIDEST_BLOCK
    if is_fused(with_path(config, layout.device)):
        return WIDEST_FUSED
    rows, block = max(size.rows for size in layout.classes), WIDEST_BLOCK
    while block > NARROWEST_BLOCK and block * 3 * 4 * rows * config.dim > CACHE:
        block //= 2
    return block


def _for_residents(block: int, config: Config, layout: Layout) -> int:
    """The block, or one so narrow that an evaluation brings few more clients to the device than a
    round trains, where the others wait on the host."""
    if not config.clients_on_host:
        return block
    participants, _ = config.round_sizes(layout.num_clients)
    trained, _ = places_needed(layout, participants, block)
    while block >= 2 * max(trained, NARROWEST_BLOCK):
        block //= 2
    return block


def _with_block(
    config: Config, federation: Federation, layout: Layout,
    algorithm: Algorithm, state: State, limit: int, block: int,
) -> MemoryPlan:  # fmt: skip
    """The plan with this block. `algorithm` and `state` are those of `bound`."""
    devices = layout.mesh.size
    room = max(max(size.positives, size.barred) for size in layout.classes)
    lists = 2 * layout.padded + len(federation.items) + len(federation.barred) + 2 * room
    scratch = algorithm.scratch(min(block, layout.shard))
    rows = sum(Room.of(federation, layout))
    held_out = rows * (2 + federation.val_candidates.shape[1]) + 4 * layout.shard
    plan = MemoryPlan(
        clients=bytes_of(state.clients) // devices,
        server=bytes_of_server(state.server, devices),
        data=4 * (lists + held_out),
        scratch={phase: 4 * count for phase, count in scratch.items()},
        limit=limit,
        devices=devices,
        block=block,
        advice="",
    )
    if config.clients_on_host:
        return _with_clients_on_host(config, federation, layout, algorithm, state, plan)
    return plan


def _with_clients_on_host(
    config: Config, federation: Federation, layout: Layout, algorithm: Algorithm, state: State,
    plan: MemoryPlan,
) -> MemoryPlan:  # fmt: skip
    """The same plan with residents alone on the devices."""
    participants, _ = config.round_sizes(layout.num_clients)
    trained, ranked = places_needed(layout, participants, plan.block)
    residents = Seats(layout, trained).of(np.arange(participants))
    scratch = bind(config, residents_of(layout, residents)).scratch(min(plan.block, trained))
    if "evaluate" in scratch:
        scratch["evaluate"] = algorithm.scratch(min(plan.block, ranked))["evaluate"]
    rows = 2 * bytes_of(shapes_of_rows(state.clients, ranked, layout))
    kept = config.keep != "none"
    copies = 1 + kept + (kept or config.saves())
    plan = plan._replace(
        clients=rows,
        saved=plan.clients - rows,
        scratch={phase: 4 * count for phase, count in scratch.items()},
        host=copies * bytes_on_host(config, federation, layout, algorithm, state.clients)
        + plan.devices * rows,
    )
    if isinstance(layout.device, AbsentDevice):
        return plan
    taken = plan.devices * plan.total if on_cpu(layout) else 0
    return plan._replace(host_limit=free_memory() - taken)


def _advice(
    config: Config, federation: Federation, layout: Layout, plan: MemoryPlan, stacked: bool = False
) -> str:
    """Single changes with which the run would fit; the arguments are those of `plan_memory`."""

    def fits(**changes) -> bool:
        changed = dataclasses.replace(config, **changes)
        return _choose_block(changed, federation, layout, plan.limit).fits

    smaller_block = [{"block_size": 1}] if config.block_size > 1 else []
    elsewhere = [{"keep": "none"}] if config.clients_on_host else [{"client_memory": "host"}]
    if stacked or several() or not config.can_wait_on_host:
        elsewhere = []
    advice = []
    for candidates in (*config.lighter(), smaller_block, elsewhere):
        if change := next((each for each in candidates if fits(**each)), None):
            advice += [_option(name, value) for name, value in change.items()]
    room = USABLE * plan.limit - (plan.total - plan.clients)
    if room > 0 and not on_cpu(layout) and not config.clients_on_host:
        advice.append(f"{math.ceil(plan.clients * plan.devices / room)} such devices")
    return f"{' or '.join(advice)} would fit" if advice else "take fewer clients or items"


def _option(name: str, value: Any) -> str:
    """A setting as an option of the command line."""
    text = f"{value:.2g}" if isinstance(value, float) else value
    return f"--{name.replace('_', '-')} {text}"


@contextmanager
def advice_when_exhausted(
    plan: MemoryPlan, config: Config, federation: Federation, layout: Layout
) -> Iterator[None]:
    """Turn a device's lack of memory into an error with advice.

    Raises:
        UserError: a device ran out of memory. The message names the plan, and changes that would
            take a quarter less.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        less = plan._replace(limit=int(0.75 * plan.total / USABLE))
        raise UserError(
            f"memory: a device ran out of it, although the run was planned to need "
            f"{in_bytes(plan.total)} of {in_bytes(plan.limit)} on each of {plan.devices}, so "
            f"something else takes it; {_advice(config, federation, layout, less)}."
        ) from None


def absent_devices(number: int, memory: int = 0) -> list[AbsentDevice]:
    """Devices that are not at hand.

    Args:
        number: how many.
        memory: bytes that each offers, of a GPU; 0: they are like those of this machine. The
            devices of a CPU share its free memory.
    """
    if memory:
        return [AbsentDevice(each, "gpu", memory) for each in range(number)]
    here = jax.devices()[0]
    stats = here.memory_stats() if here.platform != "cpu" else None
    memory = stats["bytes_limit"] if stats else free_memory() // number
    return [AbsentDevice(each, here.platform, memory) for each in range(number)]


def device_memory(layout: Layout) -> int:
    """Bytes that each device of a layout offers: the same in all processes.

    The devices of a CPU share the free memory, and so do the processes of a host.
    """
    if isinstance(layout.device, AbsentDevice):
        return layout.device.memory
    stats = None if on_cpu(layout) else layout.device.memory_stats()
    if stats and "bytes_limit" in stats:
        offered = stats["bytes_limit"]
    else:
        offered = free_memory() // (len(layout.mesh.local_devices) * processes_here())
    return MEGABYTE * smallest(offered // MEGABYTE) if several() else offered


def free_memory() -> int:
    """Free bytes of the host: as Linux reports them, else all its memory."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def on_cpu(layout: Layout) -> bool:
    return layout.device.platform == "cpu"


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_of_server(server: Any, devices: int) -> int:
    """Bytes of the server's arrays on one of the devices."""
    parts = jax.tree.leaves(server, is_leaf=is_per_device)
    return sum(bytes_of(part) // (devices if is_per_device(part) else 1) for part in parts)


def bound(config: Config, layout: Layout) -> tuple[Algorithm, State]:
    """The method on this layout, and the shapes of its state."""
    algorithm = bind(config, layout)
    return algorithm, jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)

"""What a run will cost, before it runs: padding, memory, operations, bytes, the floor in time.

    memory of a device = state + data + scratch,  scratch = that of the round's largest phase
    floor of a round   = sum over its phases of max(operations / rate, bytes moved / bandwidth)

Nothing here compiles or trains a round. Operations are float32 additions, multiplications,
divisions and elementary functions, one each; drawing (integers) and ranking (comparisons) are left
out, and nobody is taken to stop early.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.base import Algorithm, State
from fedem_jax.clients import Layout, SizeClass
from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.methods import METHODS
from fedem_jax.methods.fedem import round_sizes

WIDEST_BLOCK = 256
"""Most clients side by side on an accelerator."""
USABLE = 0.9
"""Share of a device's memory that a run may plan with."""
ADAM = 14
"""Operations of an Adam step per entry: 7 for the moments, 2 to correct them, 5 to move."""
LOSS = 10
"""Operations of cross-entropy and its derivative per row, about."""


# padding


class Need(NamedTuple):
    """What each client needs, before any padding."""

    samples: np.ndarray
    """[C] samples of a round, positives and negatives."""
    steps: np.ndarray
    """[C] local steps of an epoch."""
    rows: np.ndarray
    """[C] expected number of distinct items among the samples."""

    @classmethod
    def of(cls, config: Config, federation: Federation) -> Need:
        """n positives, and for each of them k distinct negatives out of a pool of u items, so that
        an item of the pool is among them with probability 1 - (1 - k / u)^n."""
        k, sizes = config.num_negative, np.diff(federation.offsets)
        pool = federation.num_items - np.diff(federation.barred_offsets)
        client = np.repeat(np.arange(len(sizes)), sizes)
        distinct = np.unique(client * federation.num_items + federation.items)
        positives = np.bincount(distinct // federation.num_items, minlength=len(sizes))
        samples = sizes * (1 + k)
        negatives = pool * (1 - (1 - k / pool) ** sizes)
        return cls(samples, -(-samples // config.batch_size), positives + negatives)


class ClassPlan(NamedTuple):
    """One size class, as if all its members were at work."""

    capacity: int
    """Places for training positives."""
    members: int
    """Clients."""
    rows: int
    """Rows of the compact table, M."""
    steps: int
    """Local steps of an epoch, of the largest member."""
    useful: float
    """Steps times rows that they really touch, over the members."""
    padded: np.ndarray
    """[devices] steps times rows as they are computed."""

    @property
    def padding(self) -> float:
        """Computed over useful work, at least 1."""
        return self.padded.sum() / self.useful


def plan_class(need: Need, size: SizeClass, config: Config, layout: Layout, items: int):
    """The plan of one size class. A block takes as many steps as its largest client, and a place of
    a block that no client fills is computed all the same."""
    places = size.members.shape[1]
    block = layout.width(places)
    room = [(0, 0), (0, -places % block)]
    members = np.pad(size.members, room, constant_values=layout.shard)
    device, place = np.nonzero(members < layout.shard)
    clients = device * layout.shard + members[device, place]
    steps = np.zeros(members.shape, int)
    steps[device, place] = need.steps[clients]
    rows = _rows(size, config, items)
    longest = steps.reshape(len(members), -1, block).max(axis=2)
    return ClassPlan(
        capacity=size.positives,
        members=len(clients),
        rows=rows,
        steps=int(steps.max()),
        useful=float(need.steps[clients] @ need.rows[clients]),
        padded=longest.sum(axis=1) * block * rows,
    )


def _rows(size: SizeClass, config: Config, items: int) -> int:
    """Rows of a class's compact table: one for each sample, or for each item if those are fewer."""
    return min(size.positives * (1 + config.num_negative), items)


# memory


class MemoryPlan(NamedTuple):
    """Bytes on each device."""

    clients: int
    """Parameters of the device's clients: C I D numbers over the devices, and little more."""
    server: int
    """The server's tables, R I D; every device holds them whole."""
    data: int
    """Ragged lists and held-out items."""
    scratch: dict[str, int]
    """What each phase of a round needs for itself; one runs at a time."""
    limit: int
    """What the device has to give."""
    devices: int
    block: int
    """Clients worked on side by side."""
    advice: str
    """What would fit, if this does not; else empty."""

    @property
    def total(self) -> int:
        """State, data and the largest phase."""
        return self.clients + self.server + self.data + max(self.scratch.values())

    @property
    def fits(self) -> bool:
        """Whether the run leaves a tenth of the device free."""
        return self.total <= USABLE * self.limit

    def check(self) -> None:
        """Refuse a run that does not fit.

        Raises:
            UserError: says what is needed, what there is, and what would fit.
        """
        if not self.fits:
            raise UserError(
                f"memory: the run needs {in_bytes(self.total)} on each of {self.devices} devices "
                f"(clients' tables {in_bytes(self.clients)}, server's tables "
                f"{in_bytes(self.server)}, scratch {in_bytes(max(self.scratch.values()))}), but "
                f"only {in_bytes(USABLE * self.limit)} can be used; {self.advice}."
            )


def plan_memory(
    config: Config, federation: Federation, layout: Layout, limit: int | None = None
) -> MemoryPlan:
    """What a run takes on each device, and the block size with which it fits.

    The block is `config.block_size` if that is set; else 1 on a CPU, where one client's table stays
    in the cache of its core, and the largest power of two that fits elsewhere.

    Args:
        config: all settings.
        federation: the data.
        layout: devices and size classes; its block is not looked at.
        limit: bytes that each device has to give; None: what it says.
    """
    limit = device_memory(layout) if limit is None else limit
    plan = _choose_block(config, federation, layout, limit)
    return plan if plan.fits else plan._replace(advice=_advice(config, federation, layout, plan))


def _choose_block(config: Config, federation: Federation, layout: Layout, limit: int):
    algorithm, state = bound(config, federation, layout)
    widest = config.block_size or (1 if _on_cpu(layout) else WIDEST_BLOCK)
    blocks = [widest]
    while not config.block_size and blocks[-1] > 1:
        blocks.append(blocks[-1] // 2)
    plans = (_with_block(config, federation, layout, algorithm, state, limit, b) for b in blocks)
    for plan in plans:
        if plan.fits:
            break
    return plan


def _with_block(
    config: Config, federation: Federation, layout: Layout,
    algorithm: Algorithm, state: State, limit: int, block: int,
) -> MemoryPlan:  # fmt: skip
    clients, devices = federation.num_clients, layout.mesh.size
    room = max(max(size.positives, size.barred) for size in layout.classes)
    lists = 2 * layout.padded + len(federation.items) + len(federation.barred) + 2 * room
    asked = 2 + 2 * federation.val_candidates.shape[1]
    return MemoryPlan(
        clients=_bytes(state.clients) // devices,
        server=_bytes(state.server),
        data=4 * (lists + asked * layout.shard),
        scratch=_scratch(config, algorithm, layout, min(block, -(-clients // devices))),
        limit=limit,
        devices=devices,
        block=block,
        advice="",
    )


def _scratch(config: Config, algorithm: Algorithm, layout: Layout, block: int) -> dict[str, int]:
    """Bytes of each phase, counted from the arrays that XLA keeps at once.

    train: rows, both moments, gradient and update, [D M] each; 4 numbers a sample, 1 an item.
    merge: own and aggregated table and their merger, [I D]; rows of both tables, both moments and
        the gradient, [M D]; the adapter's hidden layers, [I].
    aggregate: a copy of the uploads, their signatures, and 6 arrays of clients by clients.
    evaluate: own and aggregated table and their merger, [I D], hidden layers, and 8 numbers an
        item for scores and ranks.
    """
    items, dim, hidden = algorithm.num_items, config.dim, sum(config.adapter_widths) + 3
    rows = max(_rows(size, config, items) for size in layout.classes)
    samples = max(size.positives for size in layout.classes) * (1 + config.num_negative)
    session = 4 * samples + items
    tables = 3 if serves(config, algorithm) else 1
    scratch = {
        "train": block * (5 * rows * dim + session),
        "evaluate": block * items * (tables * dim + 8),
    }
    if serves(config, algorithm):
        _, uploads = round_sizes(config, layout.number)
        scratch["merge"] = block * (items * (3 * dim + hidden) + 4 * rows * dim + session)
        scratch["aggregate"] = uploads * (items * (dim + 2) + 6 * uploads)
    return {phase: 4 * numbers for phase, numbers in scratch.items()}


def _advice(config: Config, federation: Federation, layout: Layout, plan: MemoryPlan) -> str:
    """Single changes after which the run would fit."""

    def fits(**changes) -> bool:
        changed = dataclasses.replace(config, **changes)
        return _choose_block(changed, federation, layout, plan.limit).fits

    advice = []
    dims = (config.dim >> halvings for halvings in range(1, config.dim.bit_length()))
    if dim := next((dim for dim in dims if fits(dim=dim)), 0):
        advice.append(f"--dim {dim}")
    if config.table_dtype == "float32" and fits(table_dtype="bfloat16"):
        advice.append("--table-dtype bfloat16")
    if plan.server:
        shares = (config.aggregation_fraction / 2**halvings for halvings in range(1, 8))
        if share := next((share for share in shares if fits(aggregation_fraction=share)), 0.0):
            advice.append(f"--aggregation-fraction {share:.2g}")
    if config.block_size > 1 and fits(block_size=1):
        advice.append("--block-size 1")
    left = USABLE * plan.limit - (plan.total - plan.clients)
    if left > 0 and not _on_cpu(layout):
        advice.append(f"{math.ceil(plan.clients * plan.devices / left)} such devices")
    return f"{' or '.join(advice)} would fit" if advice else "take fewer clients or items"


def device_memory(layout: Layout) -> int:
    """Bytes that each device of a layout has to give. The devices of a CPU share what is free."""
    device = layout.mesh.devices.flat[0]
    stats = None if _on_cpu(layout) else device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return free_memory() // layout.mesh.size


def free_memory() -> int:
    """Bytes that the host can still give: as Linux says, else all that is built in."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def bound(config: Config, federation: Federation, layout: Layout) -> tuple[Algorithm, State]:
    """The method on this federation, and the shapes of its state."""
    samples = jnp.zeros(layout.padded, jnp.int32)
    algorithm = METHODS[config.method](config, federation.num_items, layout, samples)
    return algorithm, jax.eval_shape(algorithm.init, jax.random.key(0))


def serves(config: Config, algorithm: Algorithm) -> bool:
    """Whether clients are served with tables, which they merge."""
    return algorithm.traffic.down > 0 and config.merging != "none"


def _on_cpu(layout: Layout) -> bool:
    return layout.mesh.devices.flat[0].platform == "cpu"


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# operations, bytes, time


class Work(NamedTuple):
    """What a phase of a round does."""

    operations: float
    """Of float32 numbers."""
    moved: float
    """Bytes that it reads or writes at least: what it is given and what it leaves, once."""
    streamed: float
    """Bytes when every local step reads and writes a client's rows and moments in memory."""


class Machine(NamedTuple):
    """What the devices in use do at best, all together."""

    bandwidth: float
    """Bytes per second, read and written, of a large array."""
    rate: float
    """Operations per second of a float32 matrix product at full precision."""

    def floor(self, work: Work) -> float:
        """Seconds that no program can undercut here, tables held on chip for all local steps."""
        return max(work.operations / self.rate, work.moved / self.bandwidth)

    def streamed(self, work: Work) -> float:
        """The same if every local step goes through memory; caches may undercut it."""
        return max(work.operations / self.rate, work.streamed / self.bandwidth)


def round_work(
    config: Config, federation: Federation, layout: Layout, epochs: float | None = None
) -> dict[str, Work]:
    """Work of a round by phase, without padding, in expectation over who takes part.

    With F operations of the adapter per row and P parameters, for a client with S samples in T
    steps of an epoch on M rows, over E epochs:

    train: E T M (19 D + 10): score 2 D, gradients 3 D, Adam 14 D. Its rows move twice.
    merge: I (F + 3 D) for the table. Then per sample E S (5 F + 22 D + 20): both steps score and
        merge, the first goes back to the adapter (3 F), the second to the rows (2 F); and Adam on
        rows and adapter, E T 14 (M D + P). Merging once: E S (3 F + 8 D + 10), then as `train`. Its
        table is read, the aggregated one too, and it is written.
    aggregate: 2 A I D (D + 2) for the signatures, 2 A^2 I for their similarity, 2 R A I D for
        the tables. The uploads are copied and read again, R tables written.
    evaluate: 2 C I D for the scores, A I (F + 3 D) to merge. All tables are read.

    Args:
        epochs: E, mean over the clients; None: none stops early.
    """
    algorithm, state = bound(config, federation, layout)
    need, items, dim = Need.of(config, federation), federation.num_items, config.dim
    epochs = config.local_epochs if epochs is None else epochs
    clients, table = federation.num_clients, items * dim
    stored = table * jnp.dtype(config.table_dtype).itemsize  # bytes of a table between rounds
    participants, uploads = round_sizes(config, clients)
    merging = uploads / clients if serves(config, algorithm) else 0.0
    share = participants / clients

    steps, samples = epochs * need.steps, epochs * float(need.samples.sum())
    on_rows = float(steps @ need.rows)  # local steps times rows, over the clients
    touched = 2 * stored / items * float(need.rows.sum())
    local = on_rows * (5 * dim + ADAM * dim + LOSS)
    plain = Work(local, touched, touched + 24 * dim * on_rows)

    widths = (2 * dim, *config.adapter_widths, 1)
    matrices = sum(a * b for a, b in itertools.pairwise(widths))
    adapter, parameters = 2 * matrices, matrices + sum(widths[1:])
    whole = clients * items * 3 * dim
    if config.merging in ("per-batch", "once"):
        whole += clients * items * adapter
    if config.merging == "per-batch":
        local = samples * (5 * adapter + 22 * dim + 2 * LOSS)
        local += ADAM * (dim * on_rows + parameters * float(steps.sum()))
    elif config.merging == "once":
        local += samples * (3 * adapter + 8 * dim + LOSS)
    tables = 3 * stored * clients
    elastic = Work(whole + local, tables, tables + 24 * dim * on_rows)

    work = {"train": _scaled(plain, share * (1 - merging))}
    served = uploads if merging else 0
    if merging:
        work["merge and train"] = _scaled(elastic, share * merging)
    if algorithm.traffic.up:
        returned = _bytes(state.server) / stored
        alike = 0 if config.aggregation == "avg" else uploads * items * (dim * (dim + 2) + uploads)
        moved = stored * (3 * uploads + returned)
        work["aggregate"] = Work(2 * alike + 2 * returned * uploads * table, moved, moved)
    moved = stored * (clients + served)
    merged = served * (whole / clients)
    work["evaluate"] = Work(2 * clients * table + merged, moved, moved)
    return work


def _scaled(work: Work, share: float) -> Work:
    return Work(*(share * amount for amount in work))


def measure_machine(layout: Layout, budget: float = 0.4) -> Machine:
    """Bandwidth of a copy and rate of a matrix product on all devices of a layout at once.

    Both are medians after warm-up; each takes about `budget` seconds.
    """
    devices, on_cpu = layout.mesh.size, _on_cpu(layout)
    side, length = (1024 if on_cpu else 4096), 2**25  # 128 MiB a device, beyond any cache

    def filled(*shape):
        ones = jax.jit(lambda: jnp.ones((devices, *shape)), out_shardings=layout.sharded())
        return ones()

    square = filled(side, side)
    with jax.default_matmul_precision("highest"):
        product = jax.jit(jnp.matmul).lower(square, square).compile()
    raised = jax.jit(lambda x: x + 1, donate_argnums=0)
    seconds = _median_seconds(lambda _: product(square, square), None, budget)
    rate = devices * 2 * side**3 / seconds
    seconds = _median_seconds(raised, filled(length), budget)
    return Machine(bandwidth=devices * 8 * length / seconds, rate=rate)


def _median_seconds(work: Callable[[Any], Any], value: Any, budget: float) -> float:
    """Median time of `value = work(value)`, repeated for `budget` seconds, warm."""
    value = jax.block_until_ready(work(value))
    seconds: list[float] = []
    while sum(seconds) < budget or len(seconds) < 3:
        begun = time.perf_counter()
        value = jax.block_until_ready(work(value))
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


# all of it


class Plan(NamedTuple):
    """A run, before it runs."""

    federation: Federation
    classes: list[ClassPlan]
    """Of clients that train on their own rows."""
    merging: list[ClassPlan]
    """Of clients that merge before they train; empty where nobody does."""
    memory: MemoryPlan
    work: dict[str, Work]
    """By phase of a round."""
    machine: Machine

    @property
    def padding(self) -> float:
        """Computed over useful work of all clients as they train on their own rows."""
        return sum(c.padded.sum() for c in self.classes) / sum(c.useful for c in self.classes)

    @property
    def imbalance(self) -> float:
        """Work of the busiest device over the mean."""
        each = sum((c.padded for c in self.classes), np.zeros(1))
        return each.max() / each.mean()

    @property
    def floor(self) -> float:
        """Seconds of a round that no program can undercut on this machine."""
        return sum(map(self.machine.floor, self.work.values()))

    @property
    def streamed(self) -> float:
        """Seconds of a round whose local steps all go through memory, at best."""
        return sum(map(self.machine.streamed, self.work.values()))


def plan_run(
    config: Config,
    federation: Federation,
    layout: Layout,
    *,
    machine: Machine | None = None,
    epochs: float | None = None,
) -> Plan:
    """All that can be said of a run before it runs.

    Args:
        machine: what it can do; None: measured now, in about a second.
        epochs: mean number of local epochs; None: none stops early.
    """
    memory = plan_memory(config, federation, layout)
    need, layout = Need.of(config, federation), layout._replace(block=memory.block)
    algorithm, _ = bound(config, federation, layout)

    def planned(classes) -> list[ClassPlan]:
        items = federation.num_items
        return [plan_class(need, size, config, layout, items) for size in classes]

    return Plan(
        federation=federation,
        classes=planned(layout.classes),
        merging=planned(layout.coarse) if serves(config, algorithm) else [],
        memory=memory,
        work=round_work(config, federation, layout, epochs),
        machine=measure_machine(layout) if machine is None else machine,
    )


def in_bytes(count: float) -> str:
    """A number of bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def in_seconds(seconds: float) -> str:
    """A duration with three digits and a unit."""
    for unit in ("s", "ms", "us"):
        if seconds >= 0.9995 or unit == "us":
            return f"{seconds:.3g} {unit}"
        seconds *= 1000
    raise AssertionError


def shown(plan: Plan):
    """The plan as tables of at most 80 columns, for a rich console."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    def table(title: str, first: str, *columns: str) -> Table:
        made = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        made.add_column(first, no_wrap=True)
        for column in columns:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    memory, machine, federation = plan.memory, plan.machine, plan.federation
    columns = ("clients", "positives", "rows", "steps/epoch", "padded/useful")
    classes = table("Size classes", "", *columns)
    for kind, members in (("own rows", plan.classes), ("merging", plan.merging)):
        for c in members:
            row = (c.members, c.capacity, c.rows, c.steps)
            classes.add_row(kind, *(f"{number:,}" for number in row), f"{c.padding:.2f}")

    kept = {
        "clients' state": memory.clients,
        "server's state": memory.server,
        "lists": memory.data,
    }
    scratch = {f"scratch: {phase}": count for phase, count in memory.scratch.items()}
    bytes_ = table(f"Memory of each of {memory.devices} devices", "", "bytes")
    for name, count in (kept | scratch).items():
        bytes_.add_row(name, in_bytes(count))
    bytes_.add_row("state, lists, largest scratch", in_bytes(memory.total), style="bold")
    bytes_.add_row("there is", in_bytes(memory.limit))

    columns = ("operations", "moved", "floor", "streamed", "its floor")
    work = table("A round, nobody stopping early", "", *columns)
    for phase, w in plan.work.items():
        floor, streamed = in_seconds(machine.floor(w)), in_seconds(machine.streamed(w))
        cells = (f"{w.operations:.3g}", in_bytes(w.moved), floor, in_bytes(w.streamed), streamed)
        work.add_row(phase, *cells)
    total = Work(*(sum(amounts) for amounts in zip(*plan.work.values(), strict=True)))
    work.add_row(
        "round", f"{total.operations:.3g}", in_bytes(total.moved), in_seconds(plan.floor),
        in_bytes(total.streamed), in_seconds(plan.streamed), style="bold",
    )  # fmt: skip
    fit = f"fits, in blocks of {memory.block}" if memory.fits else f"does not fit: {memory.advice}"
    return Group(
        f"{federation.name}, protocol {federation.protocol.name}: {federation.num_clients:,} "
        f"clients, {federation.num_items:,} items\n",
        classes,
        f"padded over useful work {plan.padding:.3f}; busiest device over mean "
        f"{plan.imbalance:.2f}\n",
        bytes_,
        f"{fit}\n",
        work,
        f"This machine copies {in_bytes(machine.bandwidth)}/s and multiplies matrices at "
        f"{machine.rate / 1e9:,.3g} Gflop/s. The floor holds a client's rows on chip for all its "
        "local steps; streamed takes them through memory in each step (caches may undercut it).",
    )

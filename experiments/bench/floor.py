"""What a round of FedEM does at least, in operations and bytes, and how long a machine takes.

    floor of a round = sum over its phases of max(operations / rate, bytes moved / bandwidth)

Operations are float32 additions, multiplications, divisions and elementary functions, one each;
drawing (integers) and ranking (comparisons) are left out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.config.fedem import FedEM
from fedem_jax.core.layout import Layout
from fedem_jax.core.size_classes import ClientLoad
from fedem_jax.data.federation import Federation
from fedem_jax.runs.memory import on_cpu

ADAM = 14
"""Operations of an Adam step per entry: 7 for the moments, 2 to correct them, 5 to move."""
LOSS = 10
"""Operations of cross-entropy and its derivative per row, about."""


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


def round_work(config: FedEM, federation: Federation, epochs: float) -> dict[str, Work]:
    """Work of a round of FedEM by phase, without padding, in expectation over who takes part. It
    holds for the backbone MF, an adapter per row and uploads without noise.

    With F operations of the adapter per row and P parameters, for a client with S samples in T
    steps of an epoch on M rows, over E epochs:

    train: E T M (19 D + 10): score 2 D, gradients 3 D, Adam 14 D. Its rows move twice.
    merge: I (F + 3 D) for the table. Then per sample E S (5 F + 22 D + 20): both steps score and
        merge, the first goes back to the adapter (3 F), the second to the rows (2 F); and Adam on
        rows and adapter, E T 14 (M D + P). Merging once: E S (3 F + 8 D + 10), then as `train`. Its
        table is read, the aggregated one too, and it is written.
    aggregate: 2 A I D (D + 2) for the signatures, 2 A^2 I for their similarity, 2 R A I D for
        the R tables handed out. The uploads are copied and read again, R tables written.
    evaluate: 2 C I D for the scores, A I (F + 3 D) to merge. All tables are read.

    Args:
        epochs: E, mean over the clients.
    """
    load = ClientLoad.of(federation, config.num_negative, config.batch_size)
    items, dim = federation.num_items, config.dim
    clients, table = federation.num_clients, items * dim
    stored = table * jnp.dtype(config.table_dtype).itemsize  # bytes of a table between rounds
    participants, uploads = config.round_sizes(clients)

    on_rows = epochs * float(load.steps @ load.touched)  # local steps times rows, all clients
    touched = 2 * stored / items * float(load.touched.sum())
    local = on_rows * (5 * dim + ADAM * dim + LOSS)
    plain = Work(local, touched, touched + 24 * dim * on_rows)
    served = uploads if config.downloads else 0
    whole, elastic = _elastic(config, load, items, epochs, local)
    work = {"train": _scaled(plain, (participants - served) / clients)}
    if served:
        tables = 3 * stored * clients
        merging = Work(elastic, tables, tables + 24 * dim * on_rows)
        work["merge and train"] = _scaled(merging, served / clients)
    returned = 1 if config.aggregation == "avg" else uploads
    alike = 0 if config.aggregation == "avg" else uploads * items * (dim * (dim + 2) + uploads)
    moved = stored * (3 * uploads + returned)
    work["aggregate"] = Work(2 * alike + 2 * returned * uploads * table, moved, moved)
    moved = stored * (clients + served)
    work["evaluate"] = Work(2 * clients * table + served * whole, moved, moved)
    return work


def _elastic(
    config: FedEM, load: ClientLoad, items: int, epochs: float, local: float
) -> tuple[float, float]:
    """Operations to merge one whole table, and those of merging and training of all clients, whose
    training on their own rows takes `local`."""
    dim, learned = config.dim, config.learns_rho
    widths = (2 * dim, *config.adapter_widths, 1)
    matrices = sum(a * b for a, b in itertools.pairwise(widths))
    adapter, parameters = 2 * matrices, matrices + sum(widths[1:])
    whole = items * (3 * dim + (adapter if learned else 0))
    samples, steps = epochs * float(load.samples.sum()), epochs * load.steps
    if config.merging == "per-batch":
        local = samples * (5 * adapter + 22 * dim + 2 * LOSS)
        local += ADAM * (dim * float(steps @ load.touched) + parameters * float(steps.sum()))
    elif config.merging == "once":
        local += samples * (3 * adapter + 8 * dim + LOSS)
    return whole, len(load.steps) * whole + local


def _scaled(work: Work, share: float) -> Work:
    return Work(*(share * amount for amount in work))


def measure_machine(layout: Layout, budget: float = 0.4) -> Machine:
    """Bandwidth of a copy and rate of a matrix product on all devices of a layout at once.

    Both are medians after warm-up; each takes about `budget` seconds.
    """
    devices = layout.mesh.size
    side, length = (1024 if on_cpu(layout) else 4096), 2**25  # 128 MiB a device, beyond any cache

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

"""How a round grows with the clients: `python experiments/bench/scale.py [--clients ...]`.

Synthetic clients with as many interactions each. A hundredth of them trains in a round, and a tenth
of these is aggregated. Each case runs in a process of its own, for two rounds or more; the last,
with evaluation, is timed. Prints a table, for RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from bench import peak_memory

import fedem_jax as fj
from fedem_jax.config.protocol import preset
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.runs.offload import simulation_of
from fedem_jax.units import bytes_in, in_bytes, in_seconds

METHODS = {
    "fedmf": {"dim": 16},
    "fedem": {"dim": 2, "table_dtype": "bfloat16"},
}
"""FedEM keeps a table for each client, in the leanest form that fits a small machine. Another width
and type may be given."""

COLUMNS = {
    **dict.fromkeys(("state", "planned", "peak"), in_bytes),
    **dict.fromkeys(("data", "compile", "round"), in_seconds),
}


class Size(NamedTuple):
    """Of a federation."""

    clients: int
    items: int
    each: int
    """Interactions of each client."""


def made(size: Size) -> fj.Federation:
    """Distinct items of each client at equal distances from a random first one."""
    clients, most, each = size
    rng = np.random.default_rng(0)
    first, step = rng.integers(0, most, clients), rng.integers(1, most // each, clients)
    items = (first[:, None] + step[:, None] * np.arange(each)) % most
    time = np.tile(np.arange(each), clients)
    rows = Interactions.of(np.repeat(np.arange(clients), each), items.ravel(), time=time)
    return split(rows, preset("leak-free", num_candidates=20), seed=0, name=f"{clients:,} clients")


def measured(
    method: str, size: Size, most: int, own: dict[str, Any], rounds: int
) -> dict[str, float]:
    """Some rounds of a method, or its plan alone where it needs more than `most` bytes."""
    begun = time.perf_counter()
    federation = made(size)
    row = {"data": time.perf_counter() - begun}
    settings = METHODS[method] | {name: value for name, value in own.items() if value}
    settings |= {"client_fraction": 0.01, "num_negative": 4, "rounds": max(rounds, 100)}
    config = fj.preset("released", method=method, **settings)
    simulation = simulation_of(config, federation)
    memory = simulation.memory
    row |= {"state": (memory.clients + memory.server) * memory.devices + memory.host}
    row |= {"planned": memory.total * memory.devices}
    if row["planned"] + memory.host > most:
        return row
    state, begun = simulation.init(), time.perf_counter()
    before, last = simulation.segment(state, rounds - 1), simulation.segment(state, 1)
    row["compile"] = time.perf_counter() - begun
    state, _, ranks = before(state, 0)
    jax.block_until_ready((state, ranks))
    begun = time.perf_counter()
    state, info, ranks = last(state, rounds - 1)
    jax.block_until_ready((state, ranks))
    row["round"] = time.perf_counter() - begun
    simulation.record(rounds, info, ranks)  # refuses numbers that are not finite
    return row | {"peak": peak_memory(jax.devices()[0])}


def main() -> None:
    """Measure all cases, or the one of `--case`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs="+", type=int, default=[1000, 10_000, 100_000, 10**6])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--each", type=int, default=12, help="interactions of each client")
    parser.add_argument("--dim", type=int, default=0, help="width; 0: 16 for fedmf, 2 for fedem")
    parser.add_argument("--table-dtype", choices=("float32", "bfloat16"), help="of the tables")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--most", default="6GB", help="plan alone what needs more than this")
    parser.add_argument(
        "--rounds", type=int, default=2, help="rounds to run; 100 or more are planned"
    )
    parser.add_argument("--client-memory", choices=("device", "host"), default="device")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        method, clients = options.case
        size = Size(int(clients), options.items, options.each)
        own = {name: getattr(options, name) for name in ("dim", "table_dtype", "client_memory")}
        print(json.dumps(measured(method, size, bytes_in(options.most), own, options.rounds)))
        return
    print(f"| | clients | {' | '.join(COLUMNS)} |")
    print("|---|" + "---:|" * (1 + len(COLUMNS)))
    for method in options.methods:
        for clients in options.clients:
            command = [sys.executable, *sys.argv, "--case", method, str(clients)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            cells = [show(row[name]) if name in row else "" for name, show in COLUMNS.items()]
            print(f"| {method} | {clients:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

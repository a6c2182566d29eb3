"""How a round grows with the clients: `python experiments/bench/scale.py [--clients ...]`.

Synthetic clients with 12 interactions each among 1,000 items. A hundredth of them trains in a
round, and a tenth of these is aggregated. Each case runs in a process of its own, for two rounds;
the second, with evaluation, is timed. Prints a table, for RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from bench import peak_memory

import fedem_jax as fj
from fedem_jax.config.protocol import preset
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.runs.simulation import Simulation
from fedem_jax.units import bytes_in, in_bytes, in_seconds

ITEMS, EACH = 1000, 12
METHODS = {
    "fedmf": {"dim": 16},
    "fedem": {"dim": 2, "table_dtype": "bfloat16"},
}
"""FedEM keeps a table for each client, in the leanest form that fits a small machine."""

COLUMNS = {
    **dict.fromkeys(("state", "planned", "peak"), in_bytes),
    **dict.fromkeys(("data", "compile", "round"), in_seconds),
}


def made(clients: int) -> fj.Federation:
    """Distinct items of each client at equal distances from a random first one."""
    rng = np.random.default_rng(0)
    first, step = rng.integers(0, ITEMS, clients), rng.integers(1, ITEMS // EACH, clients)
    items = (first[:, None] + step[:, None] * np.arange(EACH)) % ITEMS
    time = np.tile(np.arange(EACH), clients)
    rows = Interactions.of(np.repeat(np.arange(clients), EACH), items.ravel(), time=time)
    return split(rows, preset("leak-free", num_candidates=20), seed=0, name=f"{clients:,} clients")


def measured(method: str, clients: int, most: int) -> dict[str, float]:
    """Two rounds of a method, or its plan alone where it needs more than `most` bytes."""
    begun = time.perf_counter()
    federation = made(clients)
    row = {"data": time.perf_counter() - begun}
    config = fj.preset(
        "released", method=method, client_fraction=0.01, num_negative=4, **METHODS[method]
    )
    simulation = Simulation(config, federation)
    memory = simulation.memory
    row |= {"state": (memory.clients + memory.server) * memory.devices}
    row |= {"planned": memory.total * memory.devices}
    if row["planned"] > most:
        return row
    state, begun = simulation.init(), time.perf_counter()
    program = simulation.program(1, state)
    row["compile"] = time.perf_counter() - begun
    for number in range(2):
        begun = time.perf_counter()
        state, info, ranks = program(state, jnp.int32(number), *simulation.unchanging)
        jax.block_until_ready((state, ranks))
        row["round"] = time.perf_counter() - begun
    simulation.record(2, info, ranks)  # refuses numbers that are not finite
    return row | {"peak": peak_memory(jax.devices()[0])}


def main() -> None:
    """Measure all cases, or the one of `--case`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs="+", type=int, default=[1000, 10_000, 100_000, 10**6])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--most", default="6GB", help="plan alone what needs more than this")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        method, clients = options.case
        print(json.dumps(measured(method, int(clients), bytes_in(options.most))))
        return
    print(f"| | clients | {' | '.join(COLUMNS)} |")
    print("|---|" + "---:|" * (1 + len(COLUMNS)))
    for method in options.methods:
        for clients in options.clients:
            command = [sys.executable, str(Path(__file__)), "--most", options.most]
            command += ["--case", method, str(clients)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            cells = [show(row[name]) if name in row else "" for name, show in COLUMNS.items()]
            print(f"| {method} | {clients:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

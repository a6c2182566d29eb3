"""How fast, how large, how soon: `python experiments/bench/bench.py [--quick] [--only ...]`.

Each case runs in a process of its own, so that its peak memory and its compile time are its own and
a case that fails takes no other with it. Times are medians of warm, synchronised repetitions, from
the second round on, when clients merge. Appends a section to RESULTS.md and draws scaling.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench_tables import CLIENTS, GROUPS, HEADING, START_UP, SWEEP, Row, draw_scaling, section

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """One measurement."""

    group: str
    """Table that it belongs to."""
    label: str
    """Its row."""
    data: str | tuple[int, int, int, int]
    """Known data set, or synthetic: clients, items, fewest and most interactions of a client."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `Config`, where they are not the defaults."""
    repeats: int = 5
    """Timed rounds."""
    phases: bool = False
    """Time the parts of the round as well."""
    twin: int = 0
    """Clients of each kind that the sequential twin trains."""
    trials: int = 0
    """Trials of a sweep, in place of a round."""


# the cases


def cases(options: argparse.Namespace) -> list[Case]:
    """Everything that is to be measured, in order."""
    repeats = 3 if options.quick else 5
    made: list[Case] = []

    def add(group: str, label: str, data, settings=None, **how: Any) -> None:
        if not options.only or group in options.only:
            made.append(Case(group, label, data, settings or {}, repeats, **how))

    names = ["filmtrust"] if options.quick else ["filmtrust", "ml-100k", "ml-1m", "lastfm-2k"]
    for name in filter(present, names):
        add("data sets", name, name, phases=True, twin=5 if options.quick else 20)
    sizes = [100, 300, 1000] if options.quick else [1000, 3000, 10_000, 30_000, 100_000]
    for clients in options.clients or sizes:
        data = (clients, 500, 10, 100)
        add(CLIENTS, f"{clients:,}, a tenth aggregated", data)
        if not options.quick:
            few = {"aggregation_fraction": min(1.0, 100 / clients)}
            add(CLIENTS, f"{clients:,}, 100 aggregated", data, few)
    name = "filmtrust" if present("filmtrust") else "synthetic"
    trials, rounds = (4, 2) if options.quick else (32, 10)
    add(SWEEP, f"{trials} trials of {name}", name, {"rounds": rounds}, trials=trials)
    if options.quick and not options.only:
        return made
    middle = (1000, 1000, 10, 100)
    for items in (1000, 4000, 16_000):
        add("items", f"{items:,}", (500, items, 10, 200))
    for dim in (8, 16, 32, 64):
        add("width", str(dim), middle, {"dim": dim})
    for block in (1, 4, 16, 64, 256):
        add("block", str(block), middle, {"block_size": block})
    name = "ml-100k" if present("ml-100k") else "synthetic"
    add(START_UP, name, name)
    return made


def present(name: str) -> bool:
    """Whether a known data set lies in the data folder; nothing is downloaded for a benchmark."""
    from fedem_jax.data.sources import SOURCES

    folder = Path(os.environ.get("FEDEM_DATA") or "data")
    return any((folder / file).is_file() for file in SOURCES[name].files)


# one case, in a process of its own


def measure(case: Case, begun: float) -> Row:
    """Run one case; `begun`: when its process was started."""
    import jax

    if hasattr(os, "sched_getaffinity"):  # one device per core, as `fedem train` has it
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    jax_there = time.time()
    from fedem_jax.errors import UserError
    from fedem_jax.runs.simulation import Simulation, device_name

    there = time.time()
    machine = f"{device_name()} ({os.cpu_count()} cores of {processor()}), jax {jax.__version__}"
    row: Row = {"machine": machine, "import jax": jax_there - begun, "import": there - jax_there}
    config, federation = federation_of(case)
    try:
        if case.trials:
            return row | time_stack(config, federation, case)
        return row | time_rounds(Simulation(config, federation), case, begun)
    except UserError as refusal:
        return row | {"refused": str(refusal)}


def timed(work: Callable[..., Any], *args) -> tuple[Any, float]:
    """What `work(*args)` returns, once it is there, and the seconds it took."""
    import jax

    begun = time.perf_counter()
    result = jax.block_until_ready(work(*args))
    return result, time.perf_counter() - begun


def processor() -> str:
    """The kind of processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def federation_of(case: Case):
    """The settings of a case and its data."""
    from fedem_jax.config.fedem import FedEM
    from fedem_jax.data.sources import load
    from fedem_jax.data.split import split
    from fedem_jax.data.synthetic import synthetic

    if isinstance(case.data, str):
        config = FedEM(dataset=case.data, **case.settings)
        return config, load(case.data, config.rules(), config.seed)
    clients, items, fewest, most = case.data
    config = FedEM(**case.settings)
    interactions, _ = synthetic(clients, items, sizes=(fewest, most))
    return config, split(interactions, config.rules(), config.seed, "synthetic")


def time_rounds(simulation, case: Case, begun: float) -> Row:
    """Rounds of one simulation, from its compilation on."""
    import jax
    from floor import measure_machine, round_work

    from fedem_jax.analysis.cost import plan_run

    memory, state = simulation.memory, simulation.init()
    segment, compiling = timed(simulation.segment, state, 1)
    row: Row = {
        "clients": simulation.federation.num_clients, "block": simulation.layout.block,
        "compile": compiling, "ready": time.time() - begun,
    }  # fmt: skip
    if case.group == START_UP:
        return row

    (state, _, _), _ = timed(segment, state, 0)  # warm-up
    times, epochs = [], []
    for number in range(1, 1 + case.repeats):
        (state, info, _), seconds = timed(segment, state, number)
        times.append(seconds)
        epochs.append(float(info.epochs.sum() / (info.epochs > 0).sum()))
    row |= {"round": median(times), "epochs": median(epochs)}
    row |= {"planned": memory.total * memory.devices, "peak": peak_memory(jax.devices()[0])}
    row |= {"padding": plan_run(simulation).padding}
    best = measure_machine(simulation.layout)
    work = round_work(simulation.config, simulation.federation, row["epochs"]).values()
    row |= {"floor": sum(map(best.floor, work)), "streamed": sum(map(best.streamed, work))}
    row |= {"bandwidth": best.bandwidth, "rate": best.rate}
    if case.phases:
        state, parts = time_phases(simulation, state, case.repeats)
        row |= parts
    if case.twin:
        row |= time_twin(simulation, state, 1 + case.repeats, case.twin)
    return row


def time_phases(simulation, state, repeats: int) -> tuple[Any, Row]:
    """The state after the next rounds, and median seconds of each of their phases."""
    from phases import phases

    parts = phases(simulation, state)
    times: dict[str, list[float]] = {name: [] for name in parts._fields}

    def run(name: str, *args):
        result, seconds = timed(getattr(parts, name), *args)
        times[name].append(seconds)
        return result

    for number in range(1, 2 + repeats):  # the first is warm-up
        run("draws", state, number)
        clients, _ = run("train", state, number)
        state = run("aggregate", state._replace(clients=clients), number)
        run("evaluate", state)
    return state, {name: median(seconds[1:]) for name, seconds in times.items()}


def time_twin(simulation, state, number: int, sample: int) -> Row:
    """Seconds in which the sequential twin would train all clients: those of a sample of each kind,
    by the steps that they have in an epoch."""
    import numpy as np
    from phases import parameters
    from sequential import Sequential, drawer

    from fedem_jax.core.size_classes import ClientLoad

    config = simulation.config
    twin, draw = Sequential(config), drawer(simulation)
    steps = ClientLoad.of(simulation.federation, config.num_negative, config.batch_size).steps
    merges = simulation.by_client(state.clients.slot) >= 0
    rng, total, trained = np.random.default_rng(0), 0.0, 0
    for kind in (merges, ~merges):
        clients = rng.permutation(np.flatnonzero(kind))[:sample]
        given = [
            parameters(simulation, state, client) | {"drawn": draw(client, number)}
            for client in clients
        ]
        if not given:
            continue
        twin.train(**given[0])  # warm-up
        seconds = sum(timed(partial(twin.train, **one))[1] for one in given)
        total += seconds * steps[kind].sum() / steps[clients].sum()
        trained += len(given)
    return {"twin": total, "twin clients": trained}


def time_stack(config, federation, case: Case) -> Row:
    """Seconds of one trial by itself and of all of them, side by side as far as memory goes, from
    initial parameters to the last evaluation; medians of warm repetitions.

    Raises:
        UserError: a trial does not fit into memory.
    """
    from fedem_jax.runs.simulation import Simulation
    from fedem_jax.sweeps.runner import stacked_as
    from fedem_jax.sweeps.stack import Stack

    rates = [config.lr_embedding * 10 ** (n / case.trials - 0.5) for n in range(case.trials)]
    trials = [dataclasses.replace(config, lr_embedding=rate) for rate in rates]
    program = config.as_program(Simulation(config, federation).algorithm.hyper._fields)
    memory, width = stacked_as(program, federation, case.trials)
    memory.check()
    ends = list(range(1, 1 + config.rounds))
    row: Row = {"trials": case.trials, "width": width}

    def run_all(stack: Stack, chunks) -> None:
        for chunk in chunks:
            stack.run(chunk, ends)

    # one simulation has the block that suits it, the stack the one that suits the stack
    for name, block, side, configs, repeats in (
        ("one", 0, 1, trials[:1], case.repeats), ("stacked", memory.block, width, trials, 1),
    ):  # fmt: skip
        settings = dataclasses.replace(program, block_size=block)
        stack = Stack(settings, {config.seed: federation}, side, side)
        chunks = [configs[start : start + side] for start in range(0, len(configs), side)]
        stack.run(chunks[0], ends)  # warm-up
        times = [timed(run_all, stack, chunks)[1] for _ in range(repeats)]
        row |= {name: median(times), f"{name} compile": stack.compiling}
    return row


def peak_memory(device) -> int:
    """Bytes that the device, or on a CPU the process, has held at most."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# all of them


def in_its_own_process(case: Case, environment: dict[str, str] | None = None) -> Row:
    """Measure a case in a new process; a failure becomes a row that says so."""
    described = json.dumps(dataclasses.asdict(case))
    command = [sys.executable, str(HERE / "bench.py"), "--case", described]
    command += ["--begun", repr(time.time())]
    environment = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"refused": f"failed: {reason[:200]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def start_up(case: Case) -> list[tuple[str, Row]]:
    """A first start with an empty compilation cache, and a second one that finds it filled."""
    with tempfile.TemporaryDirectory() as cache:
        kept = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        return [
            (f"{case.label}, {which}", in_its_own_process(case, kept))
            for which in ("cold", "again")
        ]


def main() -> None:
    """Measure, or run the one case that `--case` describes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few small cases, in 2 minutes")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[], help="these groups alone")
    parser.add_argument("--clients", nargs="+", type=int, help="numbers of synthetic clients")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of RESULTS.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--begun", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case = Case(**json.loads(options.case))
        print(json.dumps(measure(case, options.begun), default=float))
        return
    results: dict[str, list[tuple[str, Row]]] = {}
    for case in cases(options):
        print(f"{case.group}: {case.label}", flush=True)
        table = results.setdefault(case.group, [])
        if case.group == START_UP:
            table += start_up(case)
        else:
            table.append((case.label, in_its_own_process(case)))
    options.out.mkdir(parents=True, exist_ok=True)
    text = section(results, shlex.join(["python", "experiments/bench/bench.py", *sys.argv[1:]]))
    with (options.out / "RESULTS.md").open("a") as file:
        file.write(("\n" if file.tell() else HEADING) + text)
    if any("round" in row for _, row in results.get(CLIENTS, [])):
        draw_scaling(results[CLIENTS], options.out / "scaling.png")
    print(text)


if __name__ == "__main__":
    main()

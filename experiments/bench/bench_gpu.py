"""How fast on a GPU: `python experiments/bench/bench_gpu.py`, in one call of at most 8 minutes.

Correctness comes first: the paths of local training against each other, on the device. Then rounds
of known data sets, many clients, clients that wait on the host, wide embeddings, stacked trials,
also with kernels of other shapes, memory against plan, and kernels by the profiler.
Nothing is downloaded. Data sets that are absent are left out. Without pandas, prepare them
elsewhere: `fedem data ml-1m --out data/ml-1m.npz`.

Each case is a process of its own, so that one that fails takes no other with it. All compile side
by side. Then they measure one by one, each when it is told to.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import peak_memory, present, processor, timed
from gpu_tables import (
    AGREEMENT,
    CLIENTS,
    GOLDEN,
    KERNELS,
    ROUNDS,
    SHAPES,
    SWEEP,
    WAITING,
    WIDTHS,
    Row,
    section,
)

HERE = Path(__file__).resolve().parent
HOST, GRAPHS, FUSED = "xla", "xla, graphs", "fused"
PATHS: dict[str, dict[str, Any]] = {
    HOST: {"gpu_loops": "host", "local_training": "xla"},
    GRAPHS: {"gpu_loops": "graph", "local_training": "xla"},
    FUSED: {"gpu_loops": "graph", "local_training": "fused"},
}
"""Settings of each path of local training."""
SHARED_DEVICE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Environment of a process that leaves the memory of the device to others."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    group: str
    """Table that it belongs to."""
    label: str
    data: str | tuple[int, int, int, int]
    """Known data set, or synthetic: clients, items, fewest and most interactions of a client."""
    path: str
    """Of local training, a name in `PATHS`."""
    method: str = "fedem"
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: int = 100
    every: int = 10
    """Rounds from one evaluation to the next."""
    trials: int = 0
    """Trials of a sweep, in place of a run."""
    kernel: tuple[int, int] | None = None
    """`CELLS` and `WARPS` of `fedem_jax.client.fused`; None: as they are there."""


def cases(options: argparse.Namespace) -> list[Case]:
    """Everything that is to be measured, in order."""
    made = []
    for method in ("fedem", "fedmf"):
        made += [
            Case(AGREEMENT, method, "synthetic", path, method, rounds=5, every=1) for path in PATHS
        ]
    made += [
        Case(
            AGREEMENT, "fedem, width 32", "synthetic", path, settings={"dim": 32}, rounds=5, every=1
        )
        for path in (HOST, FUSED)
    ]
    known = [
        name
        for name in ("filmtrust", "ml-100k", "ml-1m")
        if prepared(name).is_file() or present(name)
    ]
    for name in known:
        made += [Case(ROUNDS, name, name, GRAPHS, rounds=20), Case(ROUNDS, name, name, FUSED)]
    for name in known[-1:]:
        by_host = {"gpu_loops": "host"}
        made.append(Case(KERNELS, name, name, FUSED, settings=by_host, rounds=10))
    for clients in (10_000, 100_000):
        few = {"aggregation_fraction": 100 / clients}
        data = (clients, 500, 10, 100)
        made.append(Case(CLIENTS, f"{clients:,}", data, FUSED, settings=few, rounds=20))
    waiting = {"client_fraction": 0.02, "aggregation_fraction": 0.05}
    for memory in ("device", "host"):
        settings = waiting | {"client_memory": memory}
        data = (50_000, 500, 10, 100)
        made.append(Case(WAITING, f"on the {memory}", data, FUSED, settings=settings, rounds=20))
    if "ml-100k" in known:
        for dim in (32, 64):
            label, settings = f"ml-100k, width {dim}", {"dim": dim}
            made.append(Case(WIDTHS, label, "ml-100k", GRAPHS, settings=settings, rounds=20))
            made.append(Case(WIDTHS, label, "ml-100k", FUSED, settings=settings))
    if "filmtrust" in known:
        made.append(Case(SWEEP, "filmtrust", "filmtrust", FUSED, trials=32))
        for cells, warps in ((2048, 8), (2048, 4), (1024, 4)):
            label, kernel = f"{cells} numbers, {warps} warps", (cells, warps)
            made.append(Case(SHAPES, label, "filmtrust", FUSED, trials=32, kernel=kernel))
    return [case for case in made if case.group in options.only] if options.only else made


def prepared(name: str) -> Path:
    """Where a federation may lie that was split before, for a machine without pandas."""
    return Path(os.environ.get("FEDEM_DATA") or "data") / f"{name}.npz"


# --- one case, in a process of its own ------------------------------------------------------------


def measure(case: Case) -> Row:
    """Compile a case, wait for the word on standard input, and measure it."""
    from bench import Case as Described
    from bench import federation_of

    from fedem_jax.client import fused
    from fedem_jax.config.presets import preset
    from fedem_jax.data.prepared import read_federation
    from fedem_jax.runs.offload import simulation_of

    if case.kernel:
        fused.CELLS, fused.WARPS = case.kernel
    own = PATHS[case.path] | case.settings
    if isinstance(case.data, str):
        if prepared(case.data).is_file():
            federation = read_federation(prepared(case.data))
        else:
            from fedem_jax.data.sources import load

            federation = load(case.data)
        config = preset("released", dataset=case.data, method=case.method, **own)
    else:
        _, federation = federation_of(Described("", "", case.data))
        config = preset("released", method=case.method, **own)
    if case.trials:
        return time_trials(case, config, federation)
    simulation = simulation_of(config, federation)
    state = simulation.init()
    segment, compiling = timed(simulation.segment, state, case.every)
    (state, *_), _ = timed(segment, state, 0)  # warm-up
    await_word()
    if case.group == KERNELS:
        return kernels(segment, state, case)
    del state
    state, losses, seconds = simulation.init(), [], 0.0
    for start in range(0, case.rounds, case.every):
        (state, info, ranks), taken = timed(segment, state, start)
        seconds += taken
        record = simulation.record(start + case.every, info, ranks)
        losses.append((record["loss"], record["val"]["ndcg@10"], record["test"]["hr@10"]))
    return {
        "clients": federation.num_clients,
        "block": simulation.layout.block,
        "compile": compiling,
        "seconds": seconds,
        "rounds": case.rounds,
        "planned": simulation.memory.total,
        "peak": peak_memory(simulation.layout.mesh.devices.flat[0]),
        "curve": losses,
    }


def time_trials(case: Case, config: Any, federation: Any) -> Row:
    """Seconds of one trial by itself, and of all of them side by side as far as memory goes."""
    import dataclasses

    from fedem_jax.runs.simulation import Simulation
    from fedem_jax.sweeps.runner import stacked_as
    from fedem_jax.sweeps.stack import Stack

    rates = [config.lr_embedding * 10 ** (n / case.trials - 0.5) for n in range(case.trials)]
    trials = [dataclasses.replace(config, lr_embedding=rate) for rate in rates]
    program = config.as_program(Simulation(config, federation).algorithm.hyper._fields)
    _, width = stacked_as(program, federation, case.trials)
    ends = list(range(case.every, 1 + case.rounds, case.every))
    stacks = {}
    for name, side in (("one", 1), ("stacked", width)):
        stack = Stack(program, {config.seed: federation}, side, side)
        stack.run(trials[:side], ends)  # warm-up
        stacks[name] = stack
    await_word()
    row: Row = {"trials": case.trials, "width": width, "rounds": case.rounds}
    for name, stack in stacks.items():
        side = 1 if name == "one" else width
        count = 1 if name == "one" else case.trials
        begun = time.perf_counter()
        for first in range(0, count, side):
            stack.run(trials[first : first + side], ends)
        row[name] = time.perf_counter() - begun
    return row


def kernels(segment: Any, state: Any, case: Case) -> Row:
    """Device time of each kernel in a segment, in milliseconds a round, by the profiler."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            _, seconds = timed(segment, state, case.every)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    took: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for plane in profile.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                took[event.name] += event.duration_ns
                calls[event.name] += 1
    spent = {name: ns / 1e6 / case.every for name, ns in took.most_common()}
    own = {name for name in spent if name.startswith(("train_plain", "train_merging"))}
    return {
        "busy": sum(spent.values()),
        "launched": sum(calls.values()) / case.every,
        "training": sum(spent[name] for name in own),
        "next": [(name, ms) for name, ms in spent.items() if name not in own][:4],
        "seconds": seconds / case.every,
        "kernels": spent,
    }


def await_word() -> None:
    """Say that all is compiled, and wait until this case may use the device alone."""
    print("ready", flush=True)
    sys.stdin.readline()


# --- all of them ----------------------------------------------------------------------------------


class Process:
    """A case in a process of its own."""

    def __init__(self, case: Case, logs: Path):
        self.case = case
        self.log = logs / f"{case.group}-{case.label}-{case.path}.log".replace(", ", "-")
        described = json.dumps(asdict(case))
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bench_gpu.py"), "--case", described],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
            env=os.environ | SHARED_DEVICE,
        )  # fmt: skip

    def line(self) -> str:
        """The next line that it prints; empty: it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ready(self) -> bool:
        """Wait until it has compiled; False: it failed."""
        while line := self.line():
            if line.strip() == "ready":
                return True
        return False

    def result(self, is_ready: bool) -> Row:
        """What it measures, or why it failed."""
        if is_ready:
            assert self.process.stdin is not None
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            while line := self.line():
                if line.startswith("{"):
                    return json.loads(line)
        self.process.wait()
        lines = self.log.read_text().strip().splitlines() or ["no message"]
        return {"refused": lines[-1][:200]}


def golden(trace: str, path: str) -> Row:
    """The last line of `tests/golden_check.py` on this device, or why it failed."""
    command = [sys.executable, str(HERE.parents[1] / "tests" / "golden_check.py"), trace]
    given = ["--local-training", PATHS[path]["local_training"]]
    environment = os.environ | SHARED_DEVICE
    done = subprocess.run([*command, *given], capture_output=True, text=True, env=environment)
    lines = done.stdout.strip().splitlines() or ["no message"]
    if lines[-1].endswith("beyond tolerance"):
        return {"verdict": lines[-1]}
    reason = done.stderr.strip().splitlines() or lines
    return {"verdict": f"FAILED: {reason[-1][:200]}"}


def main() -> None:
    """Measure, or run the one case that `--case` describes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="these groups alone")
    parser.add_argument("--golden", default="", help="a recorded trace to replay as well")
    parser.add_argument("--limit", type=float, default=450.0, help="seconds after which it stops")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of RESULTS.md and gpu.json")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(**json.loads(options.case))), default=float), flush=True)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as logs:
        results = measured(options, Path(logs))
    listed = subprocess.run("nvidia-smi -L", shell=True, capture_output=True, text=True).stdout
    gpu = listed.split(" (")[0].split(": ")[-1] or "no GPU"
    machine = f"{gpu} ({os.cpu_count()} cores of {processor()}), jax {version('jax')}"
    command = shlex.join(["python", "experiments/bench/bench_gpu.py", *sys.argv[1:]])
    text = section(results, machine, command)
    with (options.out / "RESULTS.md").open("a") as file:
        file.write("\n" + text)
    (options.out / "gpu.json").write_text(json.dumps({"machine": machine, **results}, indent=1))
    print(text)


def measured(options: argparse.Namespace, logs: Path) -> dict[str, list[tuple[str, str, Row]]]:
    """By group, the label, path and row of each case."""
    results: dict[str, list[tuple[str, str, Row]]] = {}
    rows: dict[Process, Row] = {}
    begun = time.time()
    processes = [Process(case, logs) for case in cases(options)]
    with ThreadPoolExecutor(len(processes) + 2) as threads:
        replays = {
            path: threads.submit(golden, options.golden, path)
            for path in ((HOST, FUSED) if options.golden else ())
        }
        compiled = {process: threads.submit(process.ready) for process in processes}
        try:
            until = begun + 0.6 * options.limit
            wait(compiled.values(), timeout=until - time.time())
            wait(replays.values(), timeout=max(0.0, until - time.time()))
            for path, replay in replays.items():
                if replay.done():
                    results.setdefault(GOLDEN, []).append((GOLDEN, path, replay.result()))
            waiting = dict(compiled)
            while waiting and time.time() - begun < options.limit:
                ready = next((one for one in waiting if waiting[one].done()), None)
                if ready is None:
                    time.sleep(0.1)
                    continue
                row = ready.result(waiting.pop(ready).result())
                rows[ready] = row
                took = f"{time.time() - begun:.0f} s"
                print(
                    f"{took}: {ready.case.group}, {ready.case.label}, {ready.case.path}", flush=True
                )
                ready.process.kill()
        finally:
            for process in processes:
                process.process.kill()
    for process in processes:
        case, late = process.case, {"refused": "not compiled in time"}
        row = rows.get(process, late)
        results.setdefault(case.group, []).append((case.label, case.path, row))
    return results


if __name__ == "__main__":
    main()

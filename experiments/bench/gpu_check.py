"""Compile rounds for an H100, on any Linux machine, and see what comes of them.

It needs an environment with `jax[cuda13]`, of about 5 GB.

Nothing is executed, so no GPU and no driver is needed. Every method is compiled on the embedded
federation, FedEM also on FilmTrust and MovieLens-1M where these are at hand. Printed are the
seconds of compiling, planned memory beside what the compiler says, and the loops: how many kernels
a pass starts, and whether a CUDA graph holds the loop. Exit status 1 tells that a method does not
compile, or that a plan is more than 15 % below the compiler's figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from gpu_target import H100, MEMORY
from gpu_thunks import Loop, loops_of

REAL = ("filmtrust", "ml-1m")
SHORT = 0.85
"""Least share of the compiler's bytes that a plan must have."""
DUMPED = "*jit__rounds.thunk_sequence_after_thunk_passes.txt"


@dataclass
class Compiled:
    """What is known of a compiled round."""

    case: str
    seconds: float = 0.0
    """Of compiling."""
    planned: int = 0
    """Bytes of the plan: state, data and the largest phase."""
    needed: int = 0
    """Bytes at the peak, as the compiler says."""
    loops: Sequence[Loop] = ()
    error: str = ""
    """Why it did not compile; else empty."""

    @property
    def fits(self) -> bool:
        """Whether it compiles, and the plan is not too low."""
        return not self.error and self.planned >= SHORT * self.needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", help="only these, on the embedded federation")
    parser.add_argument("--data-dir", default="", help="folder of data sets")
    parser.add_argument("--gpu-loops", default="graph", choices=("graph", "host"))
    parser.add_argument("--out", type=Path, help="append the tables to this Markdown file")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        data, method = options.case
        print(json.dumps(asdict(compile_case(data, method, options))))
        return
    found = [in_own_process(data, method, options) for data, method in cases(options)]
    text = report(found, f"python experiments/bench/gpu_check.py {shown(options)}".rstrip())
    print(text)
    if options.out:
        with options.out.open("a") as file:
            file.write(text)
    if not all(each.fits for each in found):
        raise SystemExit(1)


def shown(options: argparse.Namespace) -> str:
    """The options that were given, as on the command line."""
    parts = ["--gpu-loops", "host"] if options.gpu_loops == "host" else []
    return " ".join([*parts, *(["--methods", *options.methods] if options.methods else [])])


def cases(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(data, method) of what is compiled, in order."""
    from fedem_jax.config.registry import METHODS
    from fedem_jax.data.sources import load
    from fedem_jax.errors import UserError

    found = [("synthetic", method) for method in options.methods or METHODS]
    for name in () if options.methods else REAL:
        try:
            load(name, data_dir=options.data_dir)
            found.append((name, "fedem"))
        except UserError as error:
            print(f"{name} is left out: {error}")
    return found


def in_own_process(data: str, method: str, options: argparse.Namespace) -> Compiled:
    """Compile a case in a process of its own, whose dumped files are its own."""
    name = f"{method}, {data}"
    print(f"{name} ...", end=" ", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "XLA_FLAGS": f"--xla_gpu_autotune_level=0 --xla_dump_to={folder} "
            "--xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit__rounds",
        }
        command = [
            sys.executable, str(Path(__file__)), "--case", data, method,
            "--data-dir", options.data_dir, "--gpu-loops", options.gpu_loops,
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            print("does not compile", flush=True)
            return Compiled(name, error=lines[-1])
        result = Compiled(**json.loads(done.stdout.splitlines()[-1]))
        (dumped,) = Path(folder).glob(DUMPED)
        result.loops = loops_of(dumped.read_text().splitlines())
    print(f"{result.seconds:.0f} s", flush=True)
    return result


def compile_case(data: str, method: str, options: argparse.Namespace) -> Compiled:
    """Compile a round of a method for the H100."""
    import jax
    from jax.experimental import topologies

    from fedem_jax.config.presets import preset
    from fedem_jax.core.algorithm import State
    from fedem_jax.data.sources import load
    from fedem_jax.runs.simulation import Simulation

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    federation = load(data, data_dir=options.data_dir)
    config = preset("released", dataset=data, method=method, gpu_loops=options.gpu_loops)
    # no device is there to hold an array: shapes stand for all of them
    with (
        mock.patch("jax.device_put", shapes),
        mock.patch("fedem_jax.runs.memory.device_memory", return_value=MEMORY),
    ):
        simulation = Simulation(config, federation, topology.devices[:1])
        state = jax.eval_shape(
            simulation.algorithm.init, jax.random.key(0), simulation.algorithm.hyper
        )
        state = State(*map(shapes, state, simulation.shardings))
        begun = time.perf_counter()
        program = simulation.program(1, state)
        seconds = time.perf_counter() - begun
    needed = program.memory_analysis().peak_memory_in_bytes
    return Compiled(f"{method}, {data}", seconds, simulation.memory.total, needed)


def shapes(tree: Any, sharding: Any = None, **_: Any) -> Any:
    """What `jax.device_put` is called with, as shapes."""
    import jax

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def report(found: Sequence[Compiled], command: str) -> str:
    """The tables in Markdown."""
    import jax

    lines = [
        f"\n## {datetime.now():%Y-%m-%d}, compiled for an H100, without one\n",
        f"`{command}`, jax {jax.__version__}. Nothing was executed. A pass of the innermost loop "
        "of local training starts the kernels of a local step.\n",
        "| | compile, s | planned, MB | compiler, MB | loops | in graphs | kernels of an innermost "
        "loop |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for each in found:
        if each.error:
            lines.append(f"| {each.case} | does not compile: {each.error} | | | | | |")
            continue
        inner = sorted({loop.kernels for loop in each.loops if loop.innermost})
        lines.append(
            f"| {each.case} | {each.seconds:.0f} | {each.planned / 1e6:,.1f} "
            f"| {each.needed / 1e6:,.1f} | {len(each.loops)} "
            f"| {sum(loop.in_graph for loop in each.loops)} | {', '.join(map(str, inner))} |"
        )
    short = [each.case for each in found if not each.error and not each.fits]
    if short:
        lines.append(f"\nPlanned too low: {'; '.join(short)}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

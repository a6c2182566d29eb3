"""Compile rounds for an H100, on any Linux machine, and see what comes of them.

It needs an environment with `jax[cuda13]`, of about 5 GB.

Nothing is executed, so no GPU and no driver is needed. Every method is compiled on the embedded
federation, FedEM also on FilmTrust and MovieLens-1M where these are at hand. Printed are the
seconds of compiling, planned memory beside what the compiler says, and the loops: how many kernels
a pass starts, and whether a CUDA graph holds the loop. Methods that have a kernel of their own are
compiled on both paths. Of the kernel, registers a thread and spilled bytes are shown. Exit status 1
tells that a method does not compile, that a plan is more than 15 % below the compiler's figure, or
that a kernel spills more than `SPILLED` bytes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints
from unittest import mock

from gpu_target import H100, MEMORY
from gpu_thunks import Loop, loops_of

REAL = ("filmtrust", "ml-1m")
WIDE = (32, 64)
"""Widths of the embeddings that the kernel is also compiled for: from 32 on it works on a batch in
parts (`fedem_jax.client.fused.CELLS`)."""
SHORT = 0.85
"""Least share of the compiler's bytes that a plan must have."""
SPILLED = {"plain": 128, "merging": 1024}
"""Most bytes a thread that a kernel may spill. The plain one is fastest with a few (`WARPS`)."""
DUMPED = "*jit__rounds.thunk_sequence_after_thunk_passes.txt"


class Case(NamedTuple):
    """What is compiled: a round on these data."""

    data: str
    method: str
    path: str
    """Of local training: xla or fused."""
    dim: str = ""
    """Width of the embeddings; empty: as released."""

    def __str__(self) -> str:
        width = f", width {self.dim}" if self.dim else ""
        return f"{self.method}, {self.data}, {self.path}{width}"


class Kernel(NamedTuple):
    """A kernel of ours, as the assembler describes it."""

    name: str
    """plain or merging."""
    registers: int
    """Of a thread."""
    spilled: int
    """Bytes that a thread stores, as its registers do not suffice."""


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
    kernels: Sequence[Kernel] = ()
    """Of our own."""
    error: str = ""
    """Why it did not compile; else empty."""

    @property
    def fits(self) -> bool:
        """Whether it compiles, the plan is not too low, and no kernel spills much."""
        spilled = any(kernel.spilled > SPILLED[kernel.name] for kernel in self.kernels)
        return not self.error and self.planned >= SHORT * self.needed and not spilled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", help="only these, on the embedded federation")
    parser.add_argument("--data-dir", default="", help="folder of data sets")
    parser.add_argument("--gpu-loops", default="graph", choices=("graph", "host"))
    parser.add_argument("--out", type=Path, help="append the tables to this Markdown file")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(asdict(compile_case(Case(*options.case), options))))
        return
    found = [in_own_process(case, options) for case in cases(options)]
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


def cases(options: argparse.Namespace) -> list[Case]:
    """What is compiled, in order."""
    from fedem_jax.client.paths import Fusable
    from fedem_jax.config.registry import METHODS
    from fedem_jax.data.sources import load
    from fedem_jax.errors import UserError

    def paths(method: str) -> tuple[str, ...]:
        settings = METHODS[method].settings
        choices = get_args(get_type_hints(settings).get("local_training"))
        fused = issubclass(settings, Fusable) and "fused" in choices
        return ("xla", "fused") if fused else ("xla",)

    names = options.methods or METHODS
    found = [Case("synthetic", method, path) for method in names for path in paths(method)]
    if "fedem" in names:
        found += [Case("synthetic", "fedem", "fused", str(dim)) for dim in WIDE]
    for name in () if options.methods else REAL:
        try:
            load(name, data_dir=options.data_dir)
            found += [Case(name, "fedem", path) for path in paths("fedem")]
        except UserError as error:
            print(f"{name} is left out: {error}")
    return found


def in_own_process(case: Case, options: argparse.Namespace) -> Compiled:
    """Compile a case in a process of its own, whose dumped files are its own."""
    import jax

    dump = "--xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit__rounds"
    if case.path == "fused" and jax.__version_info__ >= (
        0,
        11,
    ):  # before, kernels are always dumped
        dump += " --xla_dump_emitter_re=.*"
    print(f"{case} ...", end=" ", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "XLA_FLAGS": f"--xla_gpu_autotune_level=0 --xla_dump_to={folder} {dump}",
        }
        command = [
            sys.executable, str(Path(__file__)), "--case", *case,
            "--data-dir", options.data_dir, "--gpu-loops", options.gpu_loops,
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            print("does not compile", flush=True)
            return Compiled(str(case), error=lines[-1])
        result = Compiled(**json.loads(done.stdout.splitlines()[-1]))
        (dumped,) = Path(folder).glob(DUMPED)
        result.loops = loops_of(dumped.read_text().splitlines())
        if case.path == "fused":
            result.kernels = own_kernels(Path(folder))
    print(f"{result.seconds:.0f} s", flush=True)
    return result


def own_kernels(folder: Path) -> list[Kernel]:
    """What the assembler says of our kernels, the largest of each name.

    Args:
        folder: of dumped files.
    """
    (assembler,) = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/bin/ptxas")
    found: dict[str, Kernel] = {}
    for file in folder.glob("*.ptx"):
        if not (entry := re.search(r"\.entry train_(plain|merging)", file.read_text())):
            continue
        command = [str(assembler), "-v", "-arch=sm_90a", "-o", os.devnull, str(file)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        registers = re.findall(r"Used (\d+) registers", said)
        spilled = re.findall(r"(\d+) bytes spill stores", said)
        kernel = Kernel(entry[1], int(registers[0]), int(spilled[0]))
        found[entry[1]] = max(kernel, found.get(entry[1], kernel), key=lambda one: one.spilled)
    return sorted(found.values())


def compile_case(case: Case, options: argparse.Namespace) -> Compiled:
    """Compile a round of a method for the H100."""
    import jax
    from jax.experimental import topologies

    from fedem_jax.config.presets import preset
    from fedem_jax.data.sources import load
    from fedem_jax.runs.simulation import Simulation

    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    federation = load(case.data, data_dir=options.data_dir)
    own: dict[str, Any] = {"gpu_loops": options.gpu_loops}
    own |= {"local_training": case.path} if case.path == "fused" else {}
    own |= {"dim": int(case.dim)} if case.dim else {}
    config = preset("released", dataset=case.data, method=case.method, **own)
    # no device is there to hold an array: shapes stand for all of them
    with (
        mock.patch("jax.device_put", shapes),
        mock.patch("fedem_jax.runs.memory.device_memory", return_value=MEMORY),
        mock.patch("fedem_jax.client.paths.agrees", return_value=False),
        pallas_on_h100(),
    ):
        simulation = Simulation(config, federation, topology.devices[:1])
        state = jax.tree.map(
            lambda sharding, part: shapes(part, sharding), simulation.shardings, simulation.shapes
        )
        begun = time.perf_counter()
        program = simulation.program(1, state)
        seconds = time.perf_counter() - begun
    needed = program.memory_analysis().peak_memory_in_bytes
    return Compiled(str(case), seconds, simulation.memory.total, needed)


def pallas_on_h100() -> AbstractContextManager[Any]:
    """Pallas takes the H100 for the device at hand. Before 0.11 it does not ask for one."""
    import jax

    if jax.__version_info__ < (0, 11):
        return nullcontext()
    gpu_info = importlib.import_module("jax._src.pallas.triton.gpu_info")
    known = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H100)
    return mock.patch.object(gpu_info, "get_gpu_info", return_value=known)


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
        "loop | our kernels: registers, spilled bytes |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for each in found:
        if each.error:
            lines.append(f"| {each.case} | does not compile: {each.error} | | | | | | |")
            continue
        own = "; ".join(f"{one.name} {one.registers}, {one.spilled}" for one in each.kernels)
        inner = sorted({loop.kernels for loop in each.loops if loop.innermost})
        lines.append(
            f"| {each.case} | {each.seconds:.0f} | {each.planned / 1e6:,.1f} "
            f"| {each.needed / 1e6:,.1f} | {len(each.loops)} "
            f"| {sum(loop.in_graph for loop in each.loops)} | {', '.join(map(str, inner))} "
            f"| {own} |"
        )
    short = [each.case for each in found if not each.error and not each.fits]
    if short:
        lines.append(f"\nPlanned too low, or too much spilled: {'; '.join(short)}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

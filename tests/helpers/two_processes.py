"""Two processes of `fedem train` on this host, each with one device."""

import os
import random
import socket
import subprocess
import sys

ONE_DEVICE = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
SETTINGS = "--preset released --num-candidates 15 --top-k 5 --dim 8 --size-classes 1"


def ratings(path):
    """A small file of ratings."""
    draw = random.Random(0)
    lines = ["user,item,rating,timestamp"]
    for user in range(40):
        items = draw.sample(range(60), draw.randint(8, 25))
        lines += [f"{user},{item},5,{time}" for time, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n")
    return path


def fedem(*args):
    """`fedem train` with these arguments, as a process of its own."""
    command = [sys.executable, "-m", "fedem_jax", "train", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ONE_DEVICE, **pipes)


def both(*args, each=lambda process: ()):
    """The same in two processes that know of each other.

    Args:
        args: of both.
        each: `(number) -> further arguments` of one of them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id"]
    return [fedem(*args, *each(process), *together, process) for process in range(2)]

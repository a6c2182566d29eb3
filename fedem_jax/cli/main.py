"""The console script `fedem` and its commands.

A command imports JAX, pandas or Matplotlib only if it needs them, after its arguments are parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedem_jax.cli.audit import audit
from fedem_jax.cli.bottleneck import bottleneck
from fedem_jax.cli.cluster import leaving
from fedem_jax.cli.compare import compare
from fedem_jax.cli.data import data
from fedem_jax.cli.export import export
from fedem_jax.cli.plan import plan
from fedem_jax.cli.plugin import load_plugins
from fedem_jax.cli.process import run_command
from fedem_jax.cli.recommend import recommend
from fedem_jax.cli.report import report
from fedem_jax.cli.sweep import sweep
from fedem_jax.cli.train import train
from fedem_jax.errors import UserError, nearest
from fedem_jax.version import __version__

COMMANDS = {
    "train": train,
    "compare": compare,
    "sweep": sweep,
    "bottleneck": bottleneck,
    "plan": plan,
    "audit": audit,
    "data": data,
    "report": report,
    "recommend": recommend,
    "export": export,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command of `fedem`.

    Exit status: 0 done, 1 an audited protocol leaks, 2 a mistake of the user, 3 an unforeseen
    error (FEDEM_TRACEBACK=1 shows its traceback), 4 another process of the run was lost, 130
    interrupted, 141 the reader of its output has ended, 143 terminated.

    Args:
        args: command and options; None: those of the process.
    """
    given = sys.argv[1:] if args is None else list(args)

    def command() -> None:
        args = load_plugins(given)
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
        elif args[0] == "--version":
            print(f"fedem_jax {__version__}")
        elif args[0] in COMMANDS:
            COMMANDS[args[0]](args[1:])
        else:
            raise UserError(f"unknown command '{args[0]}': {nearest(args[0], list(COMMANDS))}.")

    with leaving():
        run_command(command)


def _usage() -> str:
    commands = "\n".join(f"  {name:12}{command.__doc__}" for name, command in COMMANDS.items())
    return (
        "usage: fedem [--plugin FILE.py] COMMAND [OPTIONS]\n\n"
        "Federated recommendation, simulated on one accelerator.\n\n"
        f"commands:\n{commands}\n\n"
        "--plugin runs a Python file that registers a method, a loss or a backbone of your\n"
        "own; every command then knows it.\n\n"
        "Start with `fedem train`: it runs the embedded synthetic federation."
    )

"""`fedem export`: its options, and the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse
from fedem_jax.errors import UserError


@dataclass(frozen=True)
class Export:
    """Write the parameters of a finished run as named arrays, with the labels of users and items.

    docs/library.md lists the key of each array.

    examples:
      fedem export results/x --out model.npz
      fedem export results/x --format safetensors --out model.safetensors
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Directory of a finished run."""
    format: Literal["npz", "safetensors"] = "npz"
    """npz = NumPy; safetensors = with the extra `safetensors`."""
    out: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """The file."""
    round: Literal["best", "last"] = "best"
    """State to write: best = of the best validation round; last = of the last round."""


def export(args: Sequence[str]) -> None:
    """Write the parameters of a finished run as named arrays."""
    options = parse(Export, "fedem export", args)
    if not options.out:
        raise UserError("out: names no file; give one, such as `--out model.npz`.")
    process.prepare_jax()

    from fedem_jax.report.terminal import Terminal
    from fedem_jax.runs.export import export as write
    from fedem_jax.runs.opened import open_run
    from fedem_jax.units import in_bytes

    path = write(open_run(options.run), options.out, options.format, options.round)
    Terminal().say(f"{path}: {in_bytes(path.stat().st_size)}.")

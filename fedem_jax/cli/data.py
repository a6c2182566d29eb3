"""`fedem data`."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from fedem_jax.cli.options import Data


def data(args: Sequence[str]) -> None:
    """List the known data sets."""
    tyro.cli(Data, prog="fedem data", args=args)

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fedem_jax.data.sources import known_datasets

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("users", justify="right")
    table.add_column("items", justify="right")
    table.add_column("origin", overflow="fold")
    for known in known_datasets():
        table.add_row(known.name, f"{known.users:,}", f"{known.items:,}", known.origin)
    console = Console(highlight=False)
    console.print(table)
    console.print("Users and items as in the file, before the filter of the protocol.", style="dim")

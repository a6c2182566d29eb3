"""`fedem data`."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from fedem_jax.cli.options import Data


def data(args: Sequence[str]) -> None:
    """List the known data sets."""
    tyro.cli(Data, prog="fedem data", args=args)

    from fedem_jax.data.sources import known_datasets
    from fedem_jax.report.tables import Row, Table, in_terminal
    from fedem_jax.report.terminal import Terminal

    rows = [
        Row([known.name, f"{known.users:,}", f"{known.items:,}", known.origin])
        for known in known_datasets()
    ]
    note = "Users and items are those of the file, before the filter of the protocol."
    table = Table("", ["name", "users", "items", "origin"], rows, [note], align="lrrl")
    Terminal().print(in_terminal(table))

"""`fedem data`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fedem_jax.cli.options import Data
from fedem_jax.cli.parsing import parse


def data(args: Sequence[str]) -> None:
    """List the known data sets, or show how a file is read."""
    options = dataclasses.asdict(parse(Data, "fedem data", args))

    from fedem_jax.report.tables import in_terminal
    from fedem_jax.report.terminal import Terminal

    dataset, out = options.pop("dataset"), options.pop("out")
    split = {name: options.pop(name) for name in ("protocol", "seed")}
    if out:
        Terminal().print(_prepare(dataset, out, **split, **options))
        return
    shown = _file(dataset, **options) if dataset else [_known()]
    Terminal().print(in_terminal(*shown))


def _known():
    from fedem_jax.data.sources import known_datasets
    from fedem_jax.report.tables import Row, Table

    rows, origins = [], []
    for known in known_datasets():
        source = known.source
        way = "embedded" if source is None else "by hand"
        if source and source.url:
            way = "download" if source.verified else "download *"
        sizes = (f"{known.users:,}", f"{known.items:,}", f"{known.rows:,}")
        rows.append(Row([known.name, *sizes, way]))
        origins.append(f"{known.name}: {known.origin}")
    notes = [
        "Users, items and rows are those of the file, before the filter of the protocol.",
        "Those of the last ten data sets are as published; nobody of this project counted them.",
        "* The checksum is copied from its publisher and was not tried on a download here.",
        "By hand: `fedem train --dataset NAME` says which file to get and where to put it.",
        "",
        *origins,
    ]
    return Table("", ["name", "users", "items", "rows", "file"], rows, notes, align="lrrrl")


def _prepare(dataset: str, out: str, **how: Any) -> str:
    from fedem_jax.data.prepared import write_federation
    from fedem_jax.data.sources import load

    federation = load(dataset or "synthetic", **how)
    write_federation(federation, out)
    return (
        f"{out}: {federation.num_clients:,} clients, {federation.num_items:,} items, protocol "
        f"{federation.protocol.name}, seed {federation.seed}, fingerprint {federation.fingerprint}"
    )


def _file(dataset: str, **how: Any) -> list[Any]:
    from fedem_jax.data.facts import facts
    from fedem_jax.data.sources import read
    from fedem_jax.report.tables import Row, Table

    interactions = read(dataset, **how)
    found = facts(interactions)
    ties = f"{found.tied:,} of {found.users:,} users have equal times among their three latest rows"
    if found.tied:
        ties += f"; the {interactions.ties_latest} row of a tie is the latest (ties_latest)"
    told = {
        "columns": str(interactions.columns_read or "embedded"),
        "rows": f"{found.rows:,}, {found.unrated:,} of them with a rating of 0 or less, "
        f"{found.repeated:,} with a user and an item that came before",
        "users": f"{found.users:,}",
        "items": f"{found.items:,}",
        "ratings": f"{found.rating[0]:g} to {found.rating[1]:g}",
        "times": found.time,
        "ties": ties,
    }
    facts_of = Table(
        "", ["", dataset], [Row([name, fact]) for name, fact in told.items()], [], "ll"
    )
    header = ["user", "item", "rating", "time"]
    return [facts_of, Table("First rows", header, [Row(row) for row in found.sample], [], "llrr")]

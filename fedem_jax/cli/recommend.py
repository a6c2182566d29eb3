"""`fedem recommend`: its options, and the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse

SHOWN = 5
"""Users in the terminal, unless --users names them."""


@dataclass(frozen=True)
class Recommend:
    """Recommend items by what a finished run learned. Each client ranks with the model it would
    use. Scores are logits.

    A .trec file is the run file of TREC, `qid Q0 docid rank score tag`, for ir-measures and
    trec_eval.

    examples:
      fedem recommend results/x
      fedem recommend results/x --k 20 --users 17 42
      fedem recommend results/x --out recs.csv
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Directory of a finished run."""
    k: int = 10
    """Length of each list."""
    users: Annotated[tuple[str, ...], tyro.conf.arg(metavar="USER ...")] = ()
    """Users, by the labels of the data; empty: all in a file, the first ones in the terminal."""
    out: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """File for the lists, .csv, .parquet or .trec; empty: a table in the terminal."""
    seen: Literal["exclude", "include"] = "exclude"
    """Items that the client trains on, and its validation item: exclude = left out of the lists."""
    round: Literal["best", "last"] = "best"
    """State to ask: best = of the best validation round; last = of the last round."""


def recommend(args: Sequence[str]) -> None:
    """Recommend items by what a finished run learned."""
    options = parse(Recommend, "fedem recommend", args)

    from fedem_jax.runs.lists_out import check_suffix, write_lists

    if options.out:
        check_suffix(options.out)
    process.prepare_jax()

    from fedem_jax.report.lists import shown
    from fedem_jax.report.terminal import Terminal
    from fedem_jax.runs.opened import open_run

    result, console = open_run(options.run), Terminal()
    users = list(options.users) or None
    if users is None and not options.out:
        users = result.federation.user_ids[:SHOWN].tolist()
    exclude = options.seen == "exclude"
    table = result.recommend(users, options.k, exclude, options.round)
    if options.out:
        write_lists(table, options.out, result.config.method)
        console.say(f"{options.out}: {len(table):,} lines for {table['user'].nunique():,} users.")
        return
    console.print(shown(table, result))

"""Recommended items as a table in the terminal."""

from __future__ import annotations

import pandas as pd

from fedem_jax.report.tables import Row, Shown, Table, in_terminal
from fedem_jax.runs.result import Result


def shown(lists: pd.DataFrame, result: Result) -> Shown:
    """The lists of some users, best item first."""
    rows, before = [], None
    for user, rank, item, score in lists.itertuples(index=False):
        again = user == before
        label = "" if again else str(user)
        rows.append(Row([label, str(rank), str(item), f"{score:.4f}"], apart=not again))
        before = user
    users, total = lists["user"].nunique(), result.federation.num_clients
    notes = [f"{users:,} of {total:,} users; a score is a logit; --out writes all."]
    title = f"{result.config.method} on {result.federation.name}"
    return in_terminal(Table(title, ["user", "rank", "item", "score"], rows, notes, align="lrlr"))

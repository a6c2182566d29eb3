"""Which rows of a ratings file are used: by rating, repetition and number of interactions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedem_jax.config.protocol import Protocol
from fedem_jax.errors import UserError


def clean(frame: pd.DataFrame, protocol: Protocol, name: str) -> tuple[np.ndarray, dict[str, int]]:
    """Positions of the rows that are kept, in file order, and counts of what was dropped.

    1. Rows with a rating <= 0 are dropped, and rows below `min_rating`.
    2. Of repeated (user, item) rows all are kept, or only the first in time (`repeats`).
    3. Rows of items with fewer than `min_item_interactions` rows are dropped.
    4. Rows of users with fewer than `min_interactions` rows are dropped.
    5. With `k_core`, steps 3 and 4 ask for at least k rows, and are repeated until none is dropped.

    Args:
        frame: columns user, item, rating and time.
        protocol: the rules.
        name: of the data, for the error sentence.

    Returns:
        `rows_repeated` counts the rows after the first of their (user, item) pair. `rows_collapsed`
        counts those of them that are dropped. `rows_dropped` are those of dropped users, and
        `rows_of_items_dropped` those of dropped items.

    Raises:
        UserError: nothing is left.
    """
    user, item = pd.factorize(frame["user"])[0], pd.factorize(frame["item"])[0]
    rating = frame["rating"].to_numpy()
    rated = np.flatnonzero((rating > 0) & (rating >= protocol.min_rating))
    by_time = rated[np.argsort(frame["time"].to_numpy()[rated], kind="stable")]
    pair = user[by_time] * (item.max(initial=0) + 1) + item[by_time]
    first = np.sort(by_time[np.unique(pair, return_index=True)[1]])
    used = first if protocol.repeats == "collapse" else rated
    kept, counts = _frequent(used, user, item, protocol)
    unrated = int((rating <= 0).sum())
    cleaning = {
        "rows_read": len(frame),
        "rows_unrated": unrated,
        "rows_below_min_rating": len(frame) - len(rated) - unrated,
        "rows_repeated": len(rated) - len(first),
        "rows_collapsed": len(rated) - len(used),
        **counts,
    }
    if not len(kept):
        raise _nothing_left(cleaning, protocol, name)
    return kept, cleaning


def _frequent(
    rows: np.ndarray, user: np.ndarray, item: np.ndarray, protocol: Protocol
) -> tuple[np.ndarray, dict[str, int]]:
    """The rows of frequent items and users, and counts of what was dropped."""
    least = {
        "items": (item, max(protocol.min_item_interactions, protocol.k_core)),
        "users": (user, max(protocol.min_interactions, protocol.k_core)),
    }
    before, lost = rows, {"items": 0, "users": 0}
    while True:
        length = len(rows)
        for kind, (number, threshold) in least.items():
            often = np.bincount(number[rows], minlength=1)[number[rows]] >= threshold
            lost[kind] += int((~often).sum())
            rows = rows[often]
        if not protocol.k_core or len(rows) == length:
            break

    def dropped(number: np.ndarray) -> int:
        return len(np.unique(number[before])) - len(np.unique(number[rows]))

    return rows, {
        "items_dropped": dropped(item) if least["items"][1] > 1 else 0,
        "rows_of_items_dropped": lost["items"],
        "users_dropped": dropped(user),
        "rows_dropped": lost["users"],
    }


def _nothing_left(cleaning: dict[str, int], protocol: Protocol, name: str) -> UserError:
    steps = [
        f"{cleaning['rows_unrated']} with a rating of 0 or less",
        f"{cleaning['rows_collapsed']} repeated ones",
    ]
    if protocol.min_rating:
        steps.append(
            f"{cleaning['rows_below_min_rating']} rated below {protocol.min_rating:g}",
        )
    if cleaning["rows_of_items_dropped"]:
        steps.append(f"{cleaning['rows_of_items_dropped']} of items with too few interactions")
    least = max(protocol.min_interactions, protocol.k_core)
    return UserError(
        f"{name}: nothing is left of {cleaning['rows_read']} rows after dropping "
        f"{', '.join(steps)} and {cleaning['rows_dropped']} of the {cleaning['users_dropped']} "
        f"users with fewer than {least} interactions; check which column is the rating, lower "
        "min_interactions and other thresholds, or give a larger file."
    )

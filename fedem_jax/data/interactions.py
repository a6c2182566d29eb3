"""`Interactions`: the rows of a ratings file, before they are split into a federation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedem_jax.data.columns_read import ColumnsRead
from fedem_jax.errors import UserError, nearest

ORDERS = ("file", "item-appearance", "random")
"""Settings `order`: what stands in for the time where a file has none."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """One row per interaction, in file order.

    The columns of `frame` are `user`, `item`, `rating`, `time` and, if cohorts are declared,
    `cohort`. Labels are int64 or str, ratings float64. Times are int64 or float64, in any unit that
    grows with time.
    """

    frame: pd.DataFrame
    columns_read: ColumnsRead | None = None
    """Where the columns come from; None for arrays."""
    ties_latest: str = "first"
    """Which row of the file is the latest among equal times: first or last."""

    @classmethod
    def of(
        cls,
        user,
        item,
        rating=None,
        time=None,
        *,
        order: str = "",
        seed: int = 0,
        cohort=None,
        columns_read: ColumnsRead | None = None,
        ties_latest: str = "first",
    ) -> Interactions:
        """Interactions from columns of equal length.

        Args:
            user: labels, int64 or str.
            item: labels, int64 or str.
            rating: 1 for every row if None.
            time: None, if `order` is given.
            order: stands in for the time. file = the place of the row. item-appearance = the number
                of distinct items that appeared before the item of the row, as the released programs
                do for FilmTrust. random = a random order.
            seed: seed of the random order.
            cohort: label of the cohort of the user, int64 or str; None: there are no cohorts.
            columns_read: where the columns come from.
            ties_latest: which row is the latest among equal times: first or last.

        Raises:
            UserError: neither or both of `time` and `order` are given, or a choice is unknown.
        """
        if (time is None) == (not order):
            raise UserError("order: is needed without times, and only then; give times or order.")
        if ties_latest not in ("first", "last"):
            raise UserError(f"ties_latest: '{ties_latest}' is unknown; known: first, last.")
        frame = pd.DataFrame({"user": user, "item": item})
        frame["rating"] = 1.0 if rating is None else np.asarray(rating, np.float64)
        frame["time"] = _ordered(frame["item"], order, seed) if time is None else np.asarray(time)
        if cohort is not None:
            frame["cohort"] = cohort
        return cls(frame, columns_read, ties_latest)

    def __len__(self) -> int:
        return len(self.frame)


def _ordered(item: pd.Series, order: str, seed: int) -> np.ndarray:
    """[rows] int64 times of rows that have none."""
    if order == "file":
        return np.arange(len(item))
    if order == "item-appearance":
        return pd.factorize(item)[0].astype(np.int64)
    if order == "random":
        return np.random.default_rng(seed).permutation(len(item))
    raise UserError(f"order: '{order[:40]}' is unknown; {nearest(order[:40], list(ORDERS))}.")

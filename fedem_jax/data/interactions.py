"""`Interactions`: what a file said about users and items, before any federation exists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS = ("user", "item", "rating", "time")


@dataclass(frozen=True, eq=False)
class Interactions:
    """One row per interaction, in file order.

    Columns of `frame`: `user` and `item` (the file's own labels, int64 or str), `rating`
    (float64) and `time` (int64 or float64, in whatever unit grows with time).
    """

    frame: pd.DataFrame

    @classmethod
    def of(cls, user, item, rating=None, time=None) -> Interactions:
        """Interactions from columns of equal length.

        rating: 1 for every row if None.
        time: if None, the number of distinct items that appeared before this row's item did. That
            clock of items is what the programs released with the papers use for FilmTrust.
        """
        frame = pd.DataFrame({"user": user, "item": item})
        frame["rating"] = 1.0 if rating is None else np.asarray(rating, np.float64)
        frame["time"] = pd.factorize(frame["item"])[0] if time is None else np.asarray(time)
        return cls(frame)

    def __len__(self) -> int:
        return len(self.frame)

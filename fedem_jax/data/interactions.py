"""`Interactions`: the rows of a ratings file, before they are split into a federation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS = ("user", "item", "rating", "time")


@dataclass(frozen=True, eq=False)
class Interactions:
    """One row per interaction, in file order.

    The columns of `frame` are `user`, `item`, `rating` and `time`. Labels of users and items are
    int64 or str, ratings float64. Times are int64 or float64, in any unit that grows with time.
    """

    frame: pd.DataFrame

    @classmethod
    def of(cls, user, item, rating=None, time=None) -> Interactions:
        """Interactions from columns of equal length.

        Args:
            user: labels, int64 or str.
            item: labels, int64 or str.
            rating: 1 for every row if None.
            time: if None, the number of distinct items that appeared before this row's item. The
                released programs use this order for FilmTrust.
        """
        frame = pd.DataFrame({"user": user, "item": item})
        frame["rating"] = 1.0 if rating is None else np.asarray(rating, np.float64)
        frame["time"] = pd.factorize(frame["item"])[0] if time is None else np.asarray(time)
        return cls(frame)

    def __len__(self) -> int:
        return len(self.frame)

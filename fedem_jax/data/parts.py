"""Which rows are for training, validation and test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.config.protocol import Protocol
from fedem_jax.errors import UserError

TRAIN, VAL, TEST = 0, 1, 2
"""Parts of a split."""


class Rows(NamedTuple):
    """Rows of a file by client, the oldest first; all arrays have one entry for each row."""

    user: np.ndarray
    """Number of the user."""
    time: np.ndarray
    label: np.ndarray
    """Name of the user in the file, for error sentences."""

    @property
    def sizes(self) -> np.ndarray:
        """[N] rows of each user."""
        return np.bincount(self.user)


def parts(rows: Rows, protocol: Protocol, name: str) -> np.ndarray:
    """[rows] the part of each row: training, validation or test.

    `leave-one-out`: the latest row of a user is for test, the second latest for validation.
    `ratio`: the latest `test_share` of a user's rows are for test, the `val_share` before them for
    validation. Counts are rounded to the nearest, and are at least 1.
    `time`: rows from one moment on are for test, and rows from an earlier one on for validation.
    The moments are the times at which these shares of all rows remain. Rows of equal time stay
    together, so that the parts may be larger than the shares.

    Raises:
        UserError: a user has too few rows, or no moment divides them.
    """
    if protocol.split == "time":
        return _by_moment(rows.time, protocol, name)
    sizes = rows.sizes
    if sizes.min() < 3:
        client = int(sizes.argmin())
        label = rows.label[np.searchsorted(rows.user, client)]
        raise UserError(
            f"{name}: user '{label}' has {sizes[client]} interactions, but training, "
            "validation and test need one each; raise min_interactions to at least 3."
        )
    test = val = np.ones_like(sizes)
    if protocol.split == "ratio":
        test = np.clip(_nearest(sizes * protocol.test_share), 1, sizes - 2)
        val = np.clip(_nearest(sizes * protocol.val_share), 1, sizes - 1 - test)
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(rows.user))  # 1 for the latest
    part = np.where(left <= (test + val)[rows.user], VAL, TRAIN)
    return np.where(left <= test[rows.user], TEST, part)


def _nearest(counts: np.ndarray) -> np.ndarray:
    """Rounded to the nearest integer, halves up, whatever the error of the product."""
    return np.floor(counts + 0.5 + 1e-9).astype(int)


def _by_moment(time: np.ndarray, protocol: Protocol, name: str) -> np.ndarray:
    both = protocol.test_share + protocol.val_share
    latest = np.maximum(1, _nearest(len(time) * np.array([both, protocol.test_share])))
    ordered = np.sort(time)
    val_from, test_from = ordered[len(time) - latest]
    if not ordered[0] < val_from < test_from:
        raise UserError(
            f"{name}: no moments divide the rows, since too many have equal times; give other "
            "val_share and test_share, or another split than time."
        )
    return np.select([time >= test_from, time >= val_from], [TEST, VAL], TRAIN)


def usable(frame: pd.DataFrame, part: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """[rows] which rows a split by ratio, time or files can use, and counts of the others.

    An item that its client has in an earlier part is not held out again. Users without a training
    row can train nothing, and are left out.

    Args:
        frame: columns user and item.
        part: [rows] of each row.
    """
    user, item = pd.factorize(frame["user"])[0], pd.factorize(frame["item"])[0]
    by_part = np.argsort(part, kind="stable")
    pair = user[by_part] * (item.max(initial=0) + 1) + item[by_part]
    new = np.zeros(len(part), bool)
    new[by_part[np.unique(pair, return_index=True)[1]]] = True
    new |= part == TRAIN
    trains = np.zeros(user.max(initial=0) + 1, bool)
    trains[user[part == TRAIN]] = True
    keep = new & trains[user]
    return keep, {
        "rows_held_out_twice": int((~new).sum()),
        "users_without_training": int((~trains).sum()),
        "rows_without_training": int((new & ~trains[user]).sum()),
    }

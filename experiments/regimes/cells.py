"""The cells of the map: synthetic federations, and what theory says about them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from fedem_jax.config.protocol import preset
from fedem_jax.data.federation import Federation
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic

WIDTH = 4
"""D, width of the true vectors in a group."""
STRENGTH, INDIVIDUAL = 4.0, 0.4
"""Length of a group's taste, and the spread of its clients as a share of it."""


class Cell(NamedTuple):
    """A kind of federation, and the width of the model that is trained on it."""

    heterogeneity: float
    interactions: int
    """Interactions of each client, held-out ones included."""
    groups: int
    dim: int
    """Width of the model."""
    clients: int
    items: int


def federation(cell: Cell, seed: int) -> Federation:
    """A federation of a cell, with its groups as cohorts.

    Its catalogue also has the items that nobody drew, so that all seeds have equally many.
    """
    size = (cell.interactions, cell.interactions)
    rows, _ = synthetic(
        cell.clients, cell.items, cell.groups, size, dim=WIDTH, strength=STRENGTH,
        individual=INDIVIDUAL, heterogeneity=cell.heterogeneity, seed=seed,
    )  # fmt: skip
    rules = preset("leak-free", num_candidates=20)  # ranks are those among all items
    found = split(rows, rules, seed, "synthetic")
    undrawn = np.setdiff1d(np.arange(cell.items), found.item_ids)
    ids = np.concatenate([found.item_ids, undrawn])
    return dataclasses.replace(found, num_items=cell.items, item_ids=ids)


def of_cohort(whole: Federation, cohort: int) -> Federation:
    """The clients of a cohort as a federation of their own, over the same items."""
    chosen = np.flatnonzero(whole.cohort == cohort)

    def lists(offsets: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = [values[offsets[client] : offsets[client + 1]] for client in chosen]
        return np.cumsum([0, *map(len, each)]).astype(np.int32), np.concatenate(each)

    offsets, items = lists(whole.offsets, whole.items)
    barred_offsets, barred = lists(whole.barred_offsets, whole.barred)
    ends = np.arange(len(chosen) + 1, dtype=np.int32)
    return dataclasses.replace(
        whole, offsets=offsets, items=items, barred_offsets=barred_offsets, barred=barred,
        val_offsets=ends, test_offsets=ends, val_item=whole.val_item[chosen],
        test_item=whole.test_item[chosen], val_candidates=whole.val_candidates[chosen],
        test_candidates=whole.test_candidates[chosen], user_ids=whole.user_ids[chosen],
        cohort=whole.cohort[chosen],
    )  # fmt: skip


def boundary(cell: Cell) -> float:
    """Heterogeneity above which a group's own table should beat the common one: t2 > s2 / n.

    The variance of a row between groups is t2 = h. A draw of an item tells about its row what a
    Poisson count does: p p^T, that is |p|^2 / D for each coordinate. A group draws an item
    n = clients x interactions / (groups x items) times on average, which leaves the variance
    D / (|p|^2 n).
    """
    square = STRENGTH**2 * (1 + INDIVIDUAL**2)
    draws = cell.clients * (cell.interactions - 2) / (cell.groups * cell.items)
    return WIDTH / (square * draws)

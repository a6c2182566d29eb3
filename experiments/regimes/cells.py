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
STRENGTH, INDIVIDUAL = 1.0, 4.0
"""Length of a group's taste, and the spread of its clients as a multiple of it."""


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

    Its clients are numbered group after group, so that all seeds have the same cohorts. Its
    catalogue also has the items that nobody drew, so that all seeds have equally many.
    """
    size = (cell.interactions, cell.interactions)
    rows, _ = synthetic(
        cell.clients, cell.items, cell.groups, size, dim=WIDTH, strength=STRENGTH,
        individual=INDIVIDUAL, heterogeneity=cell.heterogeneity, seed=seed,
    )  # fmt: skip
    by_group = rows.frame.sort_values("cohort", kind="stable", ignore_index=True)
    rows = dataclasses.replace(rows, frame=by_group)
    rules = preset("leak-free", num_candidates=20)  # ranks are those among all items
    found = split(rows, rules, seed, "synthetic")
    undrawn = np.setdiff1d(np.arange(cell.items), found.item_ids)
    ids = np.concatenate([found.item_ids, undrawn])
    return dataclasses.replace(found, num_items=cell.items, item_ids=ids)


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

"""Bytes of the clients' state on the host, where item tables keep the rows that were moved."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import Algorithm
from fedem_jax.core.host_rows import is_item_table
from fedem_jax.core.layout import Layout
from fedem_jax.data.federation import Federation

ITEM_BYTES = 4
"""Bytes of the item number of a moved row."""


def bytes_on_host(
    config: Config, federation: Federation, layout: Layout, algorithm: Algorithm, clients: Any
) -> int:
    """Bytes of the state of all clients after the last round, on average over the draws.

    Args:
        clients: the state of all clients, or its shapes.
    """
    rows = rows_moved(config, federation, algorithm)
    total = 0.0
    for leaf in jax.tree.leaves(clients):
        if is_item_table(leaf, layout):
            row = leaf.shape[2] * leaf.dtype.itemsize
            total += leaf.shape[1] * row + rows * (row + ITEM_BYTES)
        else:
            total += leaf.size * leaf.dtype.itemsize
    return round(total)


def rows_moved(config: Config, federation: Federation, algorithm: Algorithm) -> float:
    """Rows of one item table a client, over all clients, that the rounds move on average.

    A client trains in each round with the same probability, whatever was before. A row stays as it
    is in a round if the client does not train, or if neither all rows change nor this one is
    sampled. A merge counts as a change of all rows, even of those that nobody moved.
    """
    number, items = federation.num_clients, federation.num_items
    participants, _ = config.round_sizes(number)
    trains = participants / number
    positives = np.diff(federation.offsets)
    drawn = np.minimum(1, config.num_negative / np.maximum(1, items - positives))
    not_drawn = (1 - drawn) ** positives
    stays = 1 - trains + trains * (1 - algorithm.moves_all) * not_drawn
    others = (items - positives) * (1 - stays**config.rounds)
    own = positives * (1 - (1 - trains) ** config.rounds)
    return float((own + others).sum())

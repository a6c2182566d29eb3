"""What the lists of all clients show: how many items, how evenly, and how little known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from fedem_jax.data.federation import Federation


def exposure(listed: Int[np.ndarray, "C L"], federation: Federation) -> dict[str, float]:
    """Coverage, Gini coefficient and novelty of the lists, by their names in records.

    Args:
        listed: the L items that each client would be shown.
        federation: the data, for the number of clients that know an item.
    """
    return {
        "coverage": coverage(listed, federation.num_items),
        "gini": gini(listed, federation.num_items),
        "novelty": novelty(listed, federation.clients_with, federation.num_clients),
    }


def coverage(listed: Int[np.ndarray, "C L"], num_items: int) -> float:
    """Catalogue coverage: share of all items that some user's list holds; in (0, 1]."""
    return len(np.unique(listed)) / num_items


def gini(listed: Int[np.ndarray, "C L"], num_items: int) -> float:
    """Gini coefficient of how often the items are shown; in [0, 1).

        G = sum_i (2 i - I - 1) x_i / (I sum_i x_i),   x_1 <= ... <= x_I the counts of the items

    0: all items are shown equally often. Near 1: a few items fill all lists.
    """
    shown = np.sort(np.bincount(listed.ravel(), minlength=num_items))
    place = np.arange(1, num_items + 1)
    return float(((2 * place - num_items - 1) * shown).sum() / (num_items * shown.sum()))


def novelty(
    listed: Int[np.ndarray, "C L"], known: Int[np.ndarray, " I"], num_clients: int
) -> float:
    """Mean self-information of the shown items, bits (Zhou et al., PNAS 2010).

        mean of -log2(c_i / C),   c_i clients trained on item i

    0: all clients know them. An item that nobody trained on counts as if one client had.
    """
    bits = -np.log2(np.maximum(known, 1) / num_clients)
    return float(bits[listed].mean())

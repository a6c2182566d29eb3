"""Ranking metrics of one relevant item per user. One value per user; the mean is taken last.

A rank counts from 1. Users without a held-out item do not occur: the split gives everybody one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fedem_jax.errors import UserError

CUTOFFS = (5, 10, 20)
"""K of HR@K and NDCG@K that every record holds, beside the one that rounds are chosen by."""


def hit_rate(rank: Float[np.ndarray, " C"], k: int) -> Float[np.ndarray, " C"]:
    """HR@K of each user: 1 if its held-out item is among the first `k`, else 0."""
    return (np.asarray(rank) <= k).astype(np.float64)


def ndcg(rank: Float[np.ndarray, " C"], k: int) -> Float[np.ndarray, " C"]:
    """NDCG@K of each user: 1 / log2(1 + rank) within the first `k`, else 0; in [0, 1]."""
    rank = np.asarray(rank, np.float64)
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)


def reciprocal_rank(rank: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """1 / rank of each user, whose mean is MRR; in (0, 1]."""
    return 1 / np.asarray(rank, np.float64)


def per_user(rank: Float[np.ndarray, " C"], k: int) -> dict[str, Float[np.ndarray, " C"]]:
    """All metrics of each user, by the names that records use."""
    values = {}
    for cutoff in sorted({*CUTOFFS, k}):
        values[f"hr@{cutoff}"] = hit_rate(rank, cutoff)
        values[f"ndcg@{cutoff}"] = ndcg(rank, cutoff)
    return values | {"mrr": reciprocal_rank(rank)}


def summarise(rank: Float[np.ndarray, " C"], k: int) -> dict[str, float]:
    """Mean metrics over the users.

    Raises:
        UserError: there is no user.
    """
    if len(rank) == 0:
        raise UserError("a metric over no user is undefined; give a federation with clients.")
    return {name: float(value.mean()) for name, value in per_user(rank, k).items()}


def coverage(listed: Int[np.ndarray, "C L"], num_items: int) -> float:
    """Catalogue coverage: share of all items that some user's list holds; in (0, 1]."""
    return len(np.unique(listed)) / num_items

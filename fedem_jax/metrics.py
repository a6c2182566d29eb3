"""Ranking metrics of one relevant item per user. One value per user; the mean is taken last."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fedem_jax.errors import UserError


def hit_rate(rank: Float[np.ndarray, " C"], k: int) -> Float[np.ndarray, " C"]:
    """HR@K of each user: 1 if its held-out item is among the first `k`, else 0."""
    return (rank <= k).astype(np.float64)


def ndcg(rank: Float[np.ndarray, " C"], k: int) -> Float[np.ndarray, " C"]:
    """NDCG@K of each user: 1 / log2(1 + rank) within the first `k`, else 0; in [0, 1]."""
    return np.where(rank <= k, 1 / np.log2(1 + np.asarray(rank, np.float64)), 0.0)


def summarise(rank: Float[np.ndarray, " C"], k: int) -> dict[str, float]:
    """Mean metrics over the users.

    Raises:
        UserError: there is no user.
    """
    if len(rank) == 0:
        raise UserError("a metric over no user is undefined; give a federation with clients.")
    return {f"hr@{k}": float(hit_rate(rank, k).mean()), f"ndcg@{k}": float(ndcg(rank, k).mean())}

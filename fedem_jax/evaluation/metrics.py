"""Ranking metrics of one relevant item per user: one value per user, and their means.

A rank counts from 1. The split gives every user one held-out item. A tie may make a rank a half
number (`fedem_jax.evaluation.ranking.rank`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from fedem_jax.errors import UserError

CUTOFFS = (5, 10, 20)
"""K of HR@K and NDCG@K in every record, beside the K that rounds are chosen by."""

Metric = tuple[str, str]
"""Part of a record and metric: `("test_full", "hr@10")`."""


def metrics_at(
    k: int, parts: Iterable[str] = ("test", "test_full"), names: Iterable[str] = ("hr", "ndcg")
) -> list[Metric]:
    """Each metric at `k` in each part, named as in records; MRR has no K."""
    keys = [name if name == "mrr" else f"{name}@{k}" for name in names]
    return [(part, key) for part in parts for key in keys]


def metric_title(name: str) -> str:
    """`HR@10` of `hr@10`."""
    return name.upper()


def ranked_title(part: str) -> str:
    """`full` for a ranking of all items, `sampled` for one of the candidates."""
    return "full" if part.endswith("_full") else "sampled"


def full_title(part: str, name: str) -> str:
    """`full val HR@10` of `("val_full", "hr@10")`."""
    which, _, full = part.partition("_")
    return " ".join(filter(None, (full, which, metric_title(name))))


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


def per_user(
    rank: Float[np.ndarray, " C"], cutoffs: Iterable[int]
) -> dict[str, Float[np.ndarray, " C"]]:
    """HR and NDCG of each user at each K of `cutoffs`, and its MRR, named as in records."""
    values = {}
    for cutoff in cutoffs:
        values[f"hr@{cutoff}"] = hit_rate(rank, cutoff)
        values[f"ndcg@{cutoff}"] = ndcg(rank, cutoff)
    return values | {"mrr": reciprocal_rank(rank)}


def summarise(rank: Float[np.ndarray, " C"], k: int) -> dict[str, float]:
    """Mean metrics over the users, at `k` and all `CUTOFFS`.

    Raises:
        UserError: there is no user.
    """
    if len(rank) == 0:
        raise UserError("a metric over no user is undefined; give a federation with clients.")
    values = per_user(rank, sorted({*CUTOFFS, k}))
    return {name: float(value.mean()) for name, value in values.items()}


def chance_level(ranked: Int[np.ndarray, " C"], k: int) -> dict[str, float]:
    """Expected metrics of a random order: the mean over the ranks 1..n_u, then over the users.

        HR@K = min(K, n_u) / n_u;   NDCG@K = sum_{r <= min(K, n_u)} 1 / log2(1 + r) / n_u;
        MRR = sum_{r <= n_u} 1 / r / n_u

    Args:
        ranked: n_u, number of items in each user's ranking, with the held-out item.
    """
    gains = per_user(np.arange(1.0, ranked.max() + 1), [k])
    return {
        name: float((gain.cumsum()[ranked - 1] / ranked).mean()) for name, gain in gains.items()
    }


def coverage(listed: Int[np.ndarray, "C L"], num_items: int) -> float:
    """Catalogue coverage: share of all items that some user's list holds; in (0, 1]."""
    return len(np.unique(listed)) / num_items

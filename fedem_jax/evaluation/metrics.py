"""Ranking metrics: one value per client, and their means.

A rank counts from 1. A tie may make it a half number (`fedem_jax.evaluation.ranking.rank`).

With one held-out item a client these are HR, NDCG and MRR. With several, the definitions are those
of trec_eval, and so of `ir-measures`, for binary relevance: m relevant items, of which the i-th
stands at position r_i of the list.

    HR@K  = 1 if r_1 <= K                    Recall@K = |{i: r_i <= K}| / m
    MRR@K = 1 / r_1 if r_1 <= K              Precision@K = |{i: r_i <= K}| / K
    NDCG@K = sum_{r_i <= K} 1 / log2(1 + r_i) / sum_{i <= min(m, K)} 1 / log2(1 + i)
    MAP@K = sum_{r_i <= K} (i / r_i) / m

Among all items, the held-out items of a client stand in one list. Among sampled candidates each
stands in a list of its own; the value of the client is then the mean over its items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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
    """`HR@10` of `hr@10`, `Recall@10` of `recall@10`."""
    return name.capitalize() if name.startswith(("recall", "precision")) else name.upper()


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


class HeldOutRanks(NamedTuple):
    """Ranks of the held-out items of all clients, one client after the other."""

    rank: Float[np.ndarray, " n"]
    """Place of each item, counted from 1, among itself and the items that are not relevant."""
    offsets: Int[np.ndarray, " N+1"]
    """Where the items of each client start in `rank`."""
    together: bool = False
    """Whether the items of a client stand in one list, or each in a list of its own."""

    @classmethod
    def of_one(cls, rank: Float[np.ndarray, " N"]) -> HeldOutRanks:
        """The ranks of clients with one item each."""
        return cls(rank, np.arange(len(rank) + 1))

    @property
    def one_each(self) -> bool:
        """Whether every client has exactly one item."""
        return len(self.rank) == len(self.offsets) - 1 and bool((np.diff(self.offsets) == 1).all())


def client_metrics(
    ranks: HeldOutRanks, cutoffs: Iterable[int]
) -> dict[str, Float[np.ndarray, " N"]]:
    """Metrics of each client at each K of `cutoffs`, named as in records.

    NaN for a client without held-out items. With one item each: HR, NDCG and MRR, as `per_user`.
    """
    rank = np.asarray(ranks.rank, np.float64)
    if ranks.one_each:
        return per_user(rank, cutoffs)
    sizes = np.diff(ranks.offsets)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    in_order = np.lexsort((rank, owner))
    before = np.arange(len(rank)) - ranks.offsets[owner]  # better items of the same client
    if not ranks.together:
        before = np.zeros_like(before)
    position = rank[in_order] + before

    def mean(gain: np.ndarray, over: np.ndarray = sizes) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            total = np.bincount(owner, gain, len(sizes))
            return np.where(sizes > 0, total / over, np.nan)

    first, lists = before == 0, np.ones_like(sizes) if ranks.together else sizes
    values = {}
    for k in cutoffs:
        hit = position <= k
        ideal = np.concatenate([[1.0], np.cumsum(ndcg(np.arange(1.0, k + 1), k))])
        best = ideal[np.minimum(sizes, k)] if ranks.together else sizes
        values[f"hr@{k}"] = mean(hit & first, lists)
        values[f"ndcg@{k}"] = mean(ndcg(position, k), best)
        values[f"recall@{k}"] = mean(hit)
        values[f"precision@{k}"] = mean(hit / k, lists)
        values[f"map@{k}"] = mean(hit * (before + 1) / position)
        values[f"mrr@{k}"] = mean(hit * first / position, lists)
    return values | {"mrr": mean(first / position, lists)}


def summarise(ranks: HeldOutRanks, k: int) -> dict[str, float]:
    """Mean metrics over the clients that have a held-out item, at `k` and all `CUTOFFS`.

    Raises:
        UserError: there is no such client.
    """
    if len(ranks.rank) == 0:
        raise UserError("a metric over no user is undefined; give a federation with clients.")
    values = client_metrics(ranks, sorted({*CUTOFFS, k}))
    return {name: over_clients(value) for name, value in values.items()}


def over_clients(values: Float[np.ndarray, " N"]) -> float:
    """The mean over the clients that have a value."""
    return float(values[~np.isnan(values)].mean())


def worst_decile(values: Float[np.ndarray, " N"]) -> float:
    """The mean over the tenth of the clients, at least one, with the lowest values."""
    known = np.sort(values[~np.isnan(values)])
    return float(known[: max(1, len(known) // 10)].mean())


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


def chance_of_several(
    ranked: Int[np.ndarray, " C"], relevant: Int[np.ndarray, " C"], k: int
) -> dict[str, float]:
    """Expected metrics of a random order of n_u items, m_u of them relevant; means over clients.

        P(r_1 = r) = C(n - r, m - 1) / C(n, m);   P(relevant at r) = m / n
        E[i / r | relevant at r] = (1 + (r - 1) (m - 1) / (n - 1)) / r

    Args:
        ranked: n_u.
        relevant: m_u; clients with 0 are left out.
        k: K.
    """
    pairs, times = np.unique(np.stack([ranked, relevant])[:, relevant > 0], axis=1,
                             return_counts=True)  # fmt: skip
    levels = [_chance(int(n), int(m), k) for n, m in pairs.T]
    return {
        name: float(np.average([level[name] for level in levels], weights=times))
        for name in levels[0]
    }


def _chance(n: int, m: int, k: int) -> dict[str, float]:
    """The expected metrics of one list."""
    place = np.arange(1.0, n + 1)
    left = n + 1 - place
    later = np.maximum(0, left - m) / left  # P(r_1 > r | r_1 >= r)
    first = np.concatenate([[1.0], np.cumprod(later)[:-1]]) * (1 - later)
    top = place <= k
    gain, m_over_n = 1 / np.log2(1 + place), m / n
    share = (1 + (place - 1) * (m - 1) / max(1, n - 1)) / place
    return {
        f"hr@{k}": float(first[top].sum()),
        f"ndcg@{k}": float(m_over_n * gain[top].sum() / gain[: min(m, k)].sum()),
        f"recall@{k}": float(top.sum() / n),
        f"precision@{k}": float(m_over_n * top.sum() / k),
        f"map@{k}": float((share[top] / n).sum()),
        f"mrr@{k}": float((first / place)[top].sum()),
        "mrr": float((first / place).sum()),
    }

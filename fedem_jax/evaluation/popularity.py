"""Ranking by popularity: what a recommender reaches that tells no client from another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.ranking import evaluate
from fedem_jax.evaluation.records import Metrics, TestMetrics


def popularity(federation: Federation, k: int) -> TestMetrics:
    """Test metrics at `k`, if items are ranked by `clients_with`; about 0.1 ms a client.

    Scores and ties are treated as in `evaluate`: counts are compared as they are.

    Raises:
        UserError: `k` is no cutoff, as in `evaluate`.
    """
    found = by_popularity(federation, k)
    return {"test": found["test"], "test_full": found["test_full"]}


def by_popularity(federation: Federation, k: int) -> dict[str, Metrics]:
    """The same for all parts of a record."""
    found = evaluate(federation, clients_with(federation)[None], k)
    return {
        part: {
            name: value for name, value in values.items() if name == "mrr" or name.endswith(f"@{k}")
        }
        for part, values in found.items()
    }


def clients_with(federation: Federation) -> Int[np.ndarray, " I"]:
    """Number of clients that have each item in their training set.

    An item that a client has repeatedly counts once.
    """
    client = np.repeat(np.arange(federation.num_clients), np.diff(federation.offsets))
    pairs = np.unique(client * federation.num_items + federation.items)
    return np.bincount(pairs % federation.num_items, minlength=federation.num_items)

"""What is said of a run at its end: chosen on validation, with everything that a reader must know."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.evaluate import Ranks

Record = dict[str, Any]


def best_round(records: list[Record], k: int, part: str = "val") -> Record:
    """The record with the highest HR@k of `part`; of equals, the latest (released programs)."""
    return max(records, key=lambda record: (record[part][f"hr@{k}"], record["round"]))


def per_client(federation: Federation, ranks: Ranks) -> pd.DataFrame:
    """One row per client: `user`, `history` (training positives), and the ranks of its held-out
    items: `val`, `test` among the sampled candidates, `val_full`, `test_full` among all items."""
    columns = {"user": federation.user_ids, "history": np.diff(federation.offsets)}
    for part in ("val", "test", "val_full", "test_full"):
        columns[part] = np.asarray(getattr(ranks, part))[: federation.num_clients]
    return pd.DataFrame(columns)


def summarise_run(
    config: Config, federation: Federation, records: list[Record], clients: pd.DataFrame
) -> dict[str, Any]:
    """The run in one table; `clients` are the ranks at the best validation round."""
    parts = ("val", "test", "val_full", "test_full")
    chosen = best_round(records, config.top_k)
    luckiest = best_round(records, config.top_k, "test")
    return {
        "method": config.method,
        "dataset": federation.name,
        "protocol": federation.protocol.name,
        "protocol_switches": dataclasses.asdict(federation.protocol),
        "fingerprint": federation.fingerprint,
        "seed": config.seed,
        "rounds": config.rounds,
        "headline": {name: chosen[name] for name in ("round", "coverage", *parts)},
        "best_test": {name: luckiest[name] for name in ("round", "test", "test_full")},
        "last": {name: records[-1][name] for name in ("round", "coverage", *parts)},
        "clients": federation.num_clients,
        "items": federation.num_items,
        "interactions": len(federation.items) + 2 * federation.num_clients,
        "bytes_up": config.rounds * records[-1]["bytes_up"],
        "bytes_down": config.rounds * records[-1]["bytes_down"],
    }

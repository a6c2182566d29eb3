"""What is said of a run at its end: chosen on validation, with all that a reader must know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.protocol import PROTOCOLS, SWITCHES

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation
import pandas as pd

from fedem_jax.config.protocol import SELECTED
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.metrics import chance_level, per_user
from fedem_jax.evaluation.ranking import Ranks
from fedem_jax.evaluation.statistics import bootstrap_interval


def protocol_label(summary: dict[str, Any]) -> str:
    """The protocol's name and, if single switches depart from the preset, what they are set to."""
    rules = PROTOCOLS.get(summary["protocol"].rstrip("*"))
    switches = summary["protocol_switches"]
    departs = [name for name in SWITCHES if rules and switches[name] != getattr(rules, name)]
    changes = ", ".join(f"{name.replace('_', ' ')} {switches[name]}" for name in departs)
    return f"{summary['protocol']} ({changes})" if changes else summary["protocol"]


def shared_k(summaries: Sequence[dict[str, Any]]) -> int:
    """The K that runs can be compared at: their own if it is one, else 10, which all record."""
    lengths = {summary["top_k"] for summary in summaries}
    return lengths.pop() if len(lengths) == 1 else 10


Record = dict[str, Any]

PARTS = ("val", "test", "val_full", "test_full")
"""Validation and test item among the sampled candidates, and among all items."""


def best_round(records: list[Record], k: int, part: str = "val") -> Record:
    """The record with the highest HR@k of `part`; of equals, the latest (released programs)."""
    return max(records, key=lambda record: (record[part][f"hr@{k}"], record["round"]))


def per_client(federation: Federation, ranks: Ranks) -> pd.DataFrame:
    """One row per client: `user`, `history` (training positives), and the ranks of its held-out
    items: `val`, `test` among the sampled candidates, `val_full`, `test_full` among all items."""
    columns = {"user": federation.user_ids, "history": np.diff(federation.offsets)}
    for part in PARTS:
        columns[part] = np.asarray(getattr(ranks, part))[: federation.num_clients]
    return pd.DataFrame(columns)


def with_metrics(clients: pd.DataFrame, k: int) -> pd.DataFrame:
    """`clients` with the metrics at `k` beside the ranks, in columns such as `test hr@10`."""
    values = {
        f"{part} {name}": value
        for part in PARTS
        for name, value in per_user(clients[part].to_numpy(np.float64), [k]).items()
    }
    return clients.assign(**values)


def intervals(clients: pd.DataFrame, k: int, part: str) -> dict[str, list[float]]:
    """Bootstrap intervals over the clients of the mean metrics at `k`: [low, high] of each."""
    values = per_user(clients[part].to_numpy(np.float64), [k])
    ends = bootstrap_interval(np.stack(list(values.values()), axis=1))
    return dict(zip(values, ends.T.tolist(), strict=True))


def by_activity(clients: pd.DataFrame, k: int) -> list[dict[str, Any]]:
    """Mean test metrics by quartile of activity, from the clients with the shortest histories up.

    Clients with equally long histories are never parted: all of them belong to the quartile that
    the middle of their group falls into, so quartiles may differ in size, and an empty one is left
    out. Clients in order of history length, the middle of a group is its mean place.
    """
    place = clients["history"].rank(method="average") - 0.5
    quartile = (4 * place // len(clients)).astype(int)
    table = []
    for number, members in clients.groupby(quartile):
        entry: dict[str, Any] = {
            "quartile": int(str(number)) + 1,
            "history": [int(members["history"].min()), int(members["history"].max())],
            "clients": len(members),
        }
        for part in ("test", "test_full"):
            values = per_user(members[part].to_numpy(np.float64), [k])
            entry[part] = {name: float(value.mean()) for name, value in values.items()}
        table.append(entry)
    return table


def chance(federation: Federation, k: int) -> dict[str, dict[str, float]]:
    """Expected test metrics at `k` of a random order of the candidates, and of all items but the
    client's training items and its validation item."""
    num_items, each = federation.num_items, np.arange(federation.num_clients)
    client = np.concatenate([np.repeat(each, np.diff(federation.offsets)), each, each])
    item = np.concatenate([federation.items, federation.val_item, federation.test_item])
    touched = np.unique(client * num_items + item) // num_items  # repeats count once
    others = num_items - np.bincount(touched)
    sampled = np.full(len(each), 1 + federation.test_candidates.shape[1])
    return {"test": chance_level(sampled, k), "test_full": chance_level(1 + others, k)}


def summarise_run(
    config: Config, federation: Federation, records: list[Record], clients: pd.DataFrame
) -> dict[str, Any]:
    """The run in one table; `clients` are the ranks at the best validation round.

    `headline` is taken at the best validation round; the entry that the protocol's own selection
    would report is named by `selected`.
    """
    k = config.top_k
    chosen, luckiest = best_round(records, k), best_round(records, k, "test")
    headline = {name: chosen[name] for name in ("round", "coverage", *PARTS)}
    headline["interval"] = {part: intervals(clients, k, part) for part in ("test", "test_full")}
    return {
        "method": config.method,
        "dataset": federation.name,
        "protocol": federation.protocol.name,
        "protocol_switches": dataclasses.asdict(federation.protocol),
        "fingerprint": federation.fingerprint,
        "seed": config.seed,
        "rounds": config.rounds,
        "top_k": k,
        "headline": headline,
        "best_test": {name: luckiest[name] for name in ("round", "test", "test_full")},
        "last": {name: records[-1][name] for name in ("round", "coverage", *PARTS)},
        "selected": SELECTED[federation.protocol.selection],
        "chance": chance(federation, k),
        "by_activity": by_activity(clients, k),
        "clients": federation.num_clients,
        "items": federation.num_items,
        "interactions": len(federation.items) + 2 * federation.num_clients,
        "bytes_up": config.rounds * records[-1]["bytes_up"],
        "bytes_down": config.rounds * records[-1]["bytes_down"],
    }

"""The summary of a run: the round chosen on validation, with intervals, chance and protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.protocol import PROTOCOLS, SELECTED, SWITCHES
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.accountant import guarantee
from fedem_jax.evaluation.metrics import (
    HeldOutRanks,
    chance_level,
    chance_of_several,
    client_metrics,
    over_clients,
    worst_decile,
)
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.ranking import Ranks, held_out_ranks
from fedem_jax.evaluation.records import (
    PARTS,
    Activity,
    Evaluation,
    Outcome,
    Part,
    Record,
    Summary,
    TestMetrics,
)
from fedem_jax.evaluation.statistics import bootstrap_interval


def protocol_label(summary: Summary) -> str:
    """The protocol's name, with the switches that differ from its preset."""
    rules = PROTOCOLS.get(summary["protocol"].rstrip("*"))
    switches = summary["protocol_switches"]
    changed = [
        name
        for name in SWITCHES
        if rules and switches.get(name, getattr(rules, name)) != getattr(rules, name)
    ]
    changes = ", ".join(f"{name.replace('_', ' ')} {switches[name]}" for name in changed)
    return f"{summary['protocol']} ({changes})" if changes else summary["protocol"]


def shared_k(summaries: Sequence[Summary]) -> int:
    """The K at which runs can be compared: their `top_k` if they share it, else 10."""
    lengths = {summary["top_k"] for summary in summaries}
    return lengths.pop() if len(lengths) == 1 else 10


def best_round(records: Sequence[Record], k: int, part: Part = "val") -> Record:
    """The record with the highest HR@k of `part`; the latest of several (released programs)."""
    return max(records, key=lambda record: (record[part][f"hr@{k}"], record["round"]))


def out_of_patience(records: Sequence[Record], config: Config) -> bool:
    """Whether the last `patience` evaluated rounds brought no better HR@K on validation."""
    values = [record["val"][f"hr@{config.top_k}"] for record in records]
    waited = len(values) - 1 - values.index(max(values)) if values else 0
    return 0 < config.patience <= waited


def per_client(federation: Federation, ranks: Ranks) -> pd.DataFrame:
    """One row per client: `user`, `history` (training positives), and its ranks by part.

    A client's rank is a number with leave-one-out, else the list of the ranks of its items.
    """
    columns: dict[str, Any] = {
        "user": federation.user_ids, "history": np.diff(federation.offsets)
    }  # fmt: skip
    for part in PARTS:
        rank, offsets, _ = held_out_ranks(federation, part, getattr(ranks, part))
        lists = np.split(rank, offsets[1:-1])
        columns[part] = rank if federation.one_each else [each.tolist() for each in lists]
    return pd.DataFrame(columns)


def ranks_in(clients: pd.DataFrame, part: Part) -> HeldOutRanks:
    """The ranks of a part in a table of `per_client`."""
    column, together = clients[part], part.endswith("_full")
    if column.dtype != object:
        rank = column.to_numpy(np.float64)
        return HeldOutRanks(rank, np.arange(len(rank) + 1), together)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in column])])
    return HeldOutRanks(np.concatenate([*column, []]).astype(np.float64), offsets, together)


def with_metrics(clients: pd.DataFrame, k: int) -> pd.DataFrame:
    """`clients` with added metrics at `k`, in columns such as `test hr@10`; NaN = no such item."""
    values = {
        f"{part} {name}": value
        for part in PARTS
        for name, value in client_metrics(ranks_in(clients, part), [k]).items()
    }
    return clients.assign(**values)


def intervals(clients: pd.DataFrame, k: int, part: Part) -> dict[str, list[float]]:
    """Bootstrap intervals [low, high] over the clients, for the mean of each metric at `k`."""
    values = client_metrics(ranks_in(clients, part), [k])
    table = np.stack(list(values.values()), axis=1)
    ends = bootstrap_interval(table[~np.isnan(table[:, 0])])
    return dict(zip(values, ends.T.tolist(), strict=True))


def by_activity(clients: pd.DataFrame, k: int) -> list[Activity]:
    """Mean test metrics by quartile of activity, shortest histories first.

    Clients with equally long histories stay together. Their mean place in the order of history
    length decides their quartile. So quartiles may differ in size, and an empty one is left out.
    """
    place = clients["history"].rank(method="average") - 0.5
    quartile = (4 * place // len(clients)).astype(int)
    table: list[Activity] = []
    for number, members in clients.groupby(quartile):
        history = members["history"]
        table.append(
            {
                "quartile": int(str(number)) + 1,
                "history": [int(history.min()), int(history.max())],
                "clients": len(members),
                "test": _means(members, k, "test"),
                "test_full": _means(members, k, "test_full"),
            }
        )
    return table


def _means(
    clients: pd.DataFrame, k: int, part: Part, mean: Callable[[np.ndarray], float] = over_clients
) -> dict[str, float]:
    """A mean of each metric at `k` over the clients; NaN if none of them has such an item."""
    values = client_metrics(ranks_in(clients, part), [k])
    return {
        name: float("nan") if np.isnan(value).all() else mean(value)
        for name, value in values.items()
    }


def chance(federation: Federation, k: int) -> TestMetrics:
    """Expected test metrics at `k` of a random order.

    `test` orders the candidates; `test_full` all items but the client's training items and its
    validation items.
    """
    num_items, each = federation.num_items, np.arange(federation.num_clients)
    lists = (
        (federation.offsets, federation.items),
        (federation.val_offsets, federation.val_item),
        (federation.test_offsets, federation.test_item),
    )
    client = np.concatenate([np.repeat(each, np.diff(offsets)) for offsets, _ in lists])
    item = np.concatenate([items for _, items in lists])
    touched = np.unique(client * num_items + item) // num_items  # repeats count once
    others = num_items - np.bincount(touched)
    sampled = np.full(len(each), 1 + federation.test_candidates.shape[1])
    if federation.one_each:
        return {"test": chance_level(sampled, k), "test_full": chance_level(1 + others, k)}
    relevant = np.diff(federation.test_offsets)
    alone = np.minimum(relevant, 1)
    return {
        "test": chance_of_several(sampled, alone, k),
        "test_full": chance_of_several(others + relevant, relevant, k),
    }


def summarise_run(
    config: Config, federation: Federation, records: Sequence[Record], clients: pd.DataFrame
) -> Outcome:
    """The part of a summary that follows from the records; `clients` comes from `per_client`."""
    k, rounds = config.top_k, records[-1]["round"]
    chosen, luckiest = best_round(records, k), best_round(records, k, "test")
    ends = {"test": intervals(clients, k, "test"), "test_full": intervals(clients, k, "test_full")}
    selected = cast(
        Literal["headline", "best_test", "last"], SELECTED[federation.protocol.selection]
    )
    outcome: Outcome = {
        "method": config.method,
        "dataset": federation.name,
        "protocol": federation.protocol.name,
        "protocol_switches": dataclasses.asdict(federation.protocol),
        "fingerprint": federation.fingerprint,
        "columns_read": str(federation.columns_read or ""),
        "cleaning": federation.cleaning,
        "evaluated": {
            "val": int((np.diff(federation.val_offsets) > 0).sum()),
            "test": int((np.diff(federation.test_offsets) > 0).sum()),
        },
        "seed": config.seed,
        "rounds": rounds,
        "top_k": k,
        "headline": {**_evaluation(chosen), "interval": ends},
        "best_test": {
            "round": luckiest["round"],
            "test": luckiest["test"],
            "test_full": luckiest["test_full"],
        },
        "last": _evaluation(records[-1]),
        "selected": selected,
        "chance": chance(federation, k),
        "popularity": popularity(federation, k),
        "worst_decile": {
            "test": _means(clients, k, "test", worst_decile),
            "test_full": _means(clients, k, "test_full", worst_decile),
        },
        "by_activity": by_activity(clients, k),
        "clients": federation.num_clients,
        "items": federation.num_items,
        "interactions": federation.num_interactions,
        "bytes_up": rounds * records[-1]["bytes_up"],
        "bytes_down": rounds * records[-1]["bytes_down"],
    }
    if rounds < config.rounds:
        outcome["planned_rounds"] = config.rounds
    privacy = guarantee(config, rounds, federation.num_clients)
    if privacy is not None:
        outcome["privacy"] = privacy
    return outcome


def _evaluation(record: Record) -> Evaluation:
    """The metrics of a record."""
    names = Evaluation.__required_keys__ | Evaluation.__optional_keys__
    values = {name: value for name, value in record.items() if name in names}
    return cast(Evaluation, values)

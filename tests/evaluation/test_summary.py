"""What is said of a run: the round chosen, intervals, chance, activity."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from made_up import CLIENTS, ITEMS, federation, made_up, ranks
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.statistics import bootstrap_interval
from fedem_jax.evaluation.summary import (
    PARTS,
    best_round,
    by_activity,
    chance,
    per_client,
    with_metrics,
)


@pytest.fixture(scope="module")
def run():
    return made_up(FedEM(rounds=6, top_k=7))


def test_the_headline_is_at_the_best_validation_round(run):
    (_, records, summary), clients = run
    best = max(record["val"]["hr@7"] for record in records)
    chosen = summary["headline"]
    assert chosen["val"]["hr@7"] == best
    assert all(r["val"]["hr@7"] < best for r in records[chosen["round"] :])
    for part in PARTS:
        assert chosen[part] == records[chosen["round"] - 1][part]
        assert chosen[part] == pytest.approx(
            summarise(HeldOutRanks.of_one(clients[part].to_numpy()), 7)
        )


def test_of_equal_rounds_the_latest_is_best():
    records = [{"round": r, "val": {"hr@10": hr}} for r, hr in ((1, 0.2), (2, 0.4), (3, 0.4))]
    assert best_round(records, 10)["round"] == 3


def test_the_summary_is_plain_json(run):
    summary = run[0].summary
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_intervals_are_those_of_the_clients(run):
    (_, _, summary), clients = run
    interval = summary["headline"]["interval"]
    assert set(interval) == {"test", "test_full"}
    for part, values in interval.items():
        assert set(values) == {"hr@7", "ndcg@7", "mrr"}
        for name, (low, high) in values.items():
            assert low <= summary["headline"][part][name] <= high
        hits = (clients[part] <= 7).to_numpy(float)
        np.testing.assert_allclose(values["hr@7"], bootstrap_interval(hits))


@pytest.mark.parametrize(
    ("selection", "entry"),
    [("validation", "headline"), ("test", "best_test"), ("last", "last")],
)
def test_the_entry_that_the_protocol_selects(selection, entry):
    summary = made_up(FedEM(rounds=2, selection=selection))[0].summary
    assert summary["selected"] == entry
    assert "test" in summary[entry]


# --- chance ---------------------------------------------------------------------------------------


def test_chance_among_candidates_and_among_all_items():
    levels = chance(federation(), 10)
    assert levels["test"]["hr@10"] == pytest.approx(0.1)
    gains = 1 / np.log2(1 + np.arange(1, 11))
    assert levels["test"]["ndcg@10"] == pytest.approx(gains.sum() / 100)
    # all items but the training items and the validation item
    left = ITEMS - 1 - np.array([1, 1, 2, 2, 3, 4, 5, 6])
    assert levels["test_full"]["hr@10"] == pytest.approx(np.mean(10 / left))
    assert levels["test_full"]["ndcg@10"] == pytest.approx(np.mean(gains.sum() / left))


@pytest.mark.parametrize("protocol", ["leak-free", "paper"])
def test_items_ranked_in_full_are_counted_once(protocol):
    data = small_federation(protocol)
    left = []
    for client, (val, test) in enumerate(zip(data.val_item, data.test_item, strict=True)):
        others = set(range(data.num_items)) - {*data.train_items(client), val, test}
        left.append(1 + len(others))
    assert chance(data, 5)["test_full"]["hr@5"] == pytest.approx(np.mean(5 / np.array(left)))


# --- popularity -----------------------------------------------------------------------------------


def test_popularity_counts_clients_and_not_interactions():
    """A client with n training items has the first n."""
    data = federation()
    counted = data.clients_with
    assert counted.tolist() == [8, 6, 4, 3, 2, 1] + [0] * (ITEMS - 6)
    twice = dataclasses.replace(data, items=np.where(data.items == 5, 0, data.items))
    assert twice.clients_with.tolist() == [8, 6, 4, 3, 2] + [0] * (ITEMS - 5)


def test_popularity_stands_in_the_summary(run):
    """All held-out items are nobody's training item, and equal scores come first."""
    summary = run[0].summary
    assert summary["popularity"] == popularity(federation(), 7)
    assert summary["popularity"]["test"]["hr@7"] == 0
    likely = dataclasses.replace(federation(), test_item=np.full(CLIENTS, 2, np.int32))
    found = popularity(likely, 7)["test"]
    assert found["hr@7"] == found["ndcg@7"] == found["mrr"] == 1


# --- clients --------------------------------------------------------------------------------------


def test_per_client_has_a_row_for_each_client():
    table = per_client(federation(), ranks(1)._replace(val=np.arange(1.0, CLIENTS + 1)))
    assert list(table) == ["user", "history", *PARTS]
    assert list(table["history"]) == [1, 1, 2, 2, 3, 4, 5, 6]
    assert list(table["val"]) == list(range(1, CLIENTS + 1))


def test_metrics_stand_beside_the_ranks(run):
    table = with_metrics(run[1], 7)
    assert len(table.columns) == 6 + 4 * 3
    for part in PARTS:
        np.testing.assert_array_equal(table[f"{part} hr@7"], table[part] <= 7)
        np.testing.assert_array_equal(table[f"{part} mrr"], 1 / table[part])


def clients_of(history) -> pd.DataFrame:
    places = np.arange(1.0, len(history) + 1)
    return pd.DataFrame({"history": history} | dict.fromkeys(PARTS, places))


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([5, 1, 3, 7, 2, 8, 4, 6], [(1, 2, 1, 2), (2, 2, 3, 4), (3, 2, 5, 6), (4, 2, 7, 8)]),
        ([3, 3, 3, 3], [(3, 4, 3, 3)]),  # one group: its middle is where the third begins
        ([1, 1, 1, 2, 3, 4, 5, 6], [(1, 3, 1, 1), (2, 1, 2, 2), (3, 2, 3, 4), (4, 2, 5, 6)]),
        ([1, 2, 2, 2, 2, 2, 2, 9], [(1, 1, 1, 1), (3, 6, 2, 2), (4, 1, 9, 9)]),
        ([4], [(3, 1, 4, 4)]),
    ],
)
def test_quartiles_never_part_equal_histories(history, expected):
    table = by_activity(clients_of(history), 10)
    assert [(row["quartile"], row["clients"], *row["history"]) for row in table] == expected


def test_activity_adds_up_to_the_whole(run):
    (_, _, summary), clients = run
    table = summary["by_activity"]
    assert sum(row["clients"] for row in table) == CLIENTS
    for part in ("test", "test_full"):
        for name, value in table[0][part].items():
            total = sum(row["clients"] * row[part][name] for row in table) / CLIENTS
            assert total == pytest.approx(summary["headline"][part][name])
            assert 0 <= value <= 1
    busiest = clients[clients["history"] >= table[-1]["history"][0]]
    assert table[-1]["test"]["hr@7"] == (busiest["test"] <= 7).mean()

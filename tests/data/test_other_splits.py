"""Filters, and splits by ratio, by moment and by files of their own, against plain loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedem_jax as fj
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.protocol import LATER, PROTOCOLS, preset, switches_of
from fedem_jax.data.cleaning import clean
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.sources import federation_of
from fedem_jax.data.split import split
from fedem_jax.errors import UserError


def rows_of(number=400, users=12, items=40, seed=0, times=1000) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": draw.integers(0, users, number),
            "item": draw.integers(100, 100 + items, number),
            "rating": draw.integers(0, 6, number).astype(float),
            "time": draw.integers(0, times, number),
        }
    )


def federation(frame, name="leak-free", **switches):
    rules = preset(name, **({"num_candidates": 3, "min_interactions": 3} | switches))
    return split(Interactions(frame), rules, 0, "rows")


def histories(made) -> dict[int, tuple[list, list, list]]:
    """Training, validation and test items of each client, in the labels of the file."""
    return {
        made.user_ids[client]: tuple(
            made.item_ids[items].tolist()
            for items in (
                made.train_items(client),
                made.held_out("val", client),
                made.held_out("test", client),
            )
        )
        for client in range(made.num_clients)
    }


def used_rows(frame, least=3, min_rating=0.0) -> list[tuple]:
    """(user, time, -row, item) of the rows that a leak-free split uses, the oldest first."""
    first = {}
    for row in sorted(range(len(frame)), key=lambda row: (frame["time"][row], row)):
        user, item, rating, time = frame.iloc[row]
        if rating > 0 and rating >= min_rating:
            first.setdefault((user, item), (user, time, -row, item))
    rows = sorted(first.values())
    return [row for row in rows if sum(other[0] == row[0] for other in rows) >= least]


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.2, 0.3), (0.05, 0.6)])
def test_ratio_holds_out_the_latest_shares_of_each_client(shares):
    frame = rows_of()
    made = federation(frame, split="ratio", val_share=shares[0], test_share=shares[1])
    found, rows = histories(made), used_rows(frame)
    assert len(found) == len({row[0] for row in rows})
    for user, (train, val, test) in found.items():
        items = [row[3] for row in rows if row[0] == user]
        number = len(items)
        tests = min(max(1, int(number * shares[1] + 0.5)), number - 2)
        vals = min(max(1, int(number * shares[0] + 0.5)), number - 1 - tests)
        assert [*train, *val, *test] == items
        assert (len(val), len(test)) == (vals, tests)


def test_counts_from_shares_round_to_the_nearest():
    frame = pd.DataFrame({"user": 0, "item": range(100), "rating": 1.0, "time": range(100)})
    others = pd.DataFrame({"user": 1, "item": range(100, 200), "rating": 1.0, "time": range(100)})
    made = federation(pd.concat([frame, others], ignore_index=True), split="ratio", val_share=0.29)
    assert len(made.held_out("val", 0)) == 29  # int(100 * 0.29) is 28
    assert len(made.held_out("test", 0)) == 10


def test_time_holds_out_what_comes_after_one_moment_of_all():
    frame = rows_of(times=60)
    made = federation(frame, split="time", val_share=0.2, test_share=0.2)
    rows = used_rows(frame)
    times = sorted(row[1] for row in rows)
    test_from = times[len(times) - int(len(times) * 0.2 + 0.5)]
    val_from = times[len(times) - int(len(times) * 0.4 + 0.5)]
    expected = {}
    for user, time, _, item in rows:
        part = 2 if time >= test_from else int(time >= val_from)
        expected.setdefault(int(user), ([], [], []))[part].append(item)
    expected = {user: lists for user, lists in expected.items() if lists[0]}
    assert histories(made) == expected
    assert made.cleaning["tied_users"] == 0  # rows of equal time stay together


def test_clients_without_a_row_before_the_moment_are_left_out_and_counted():
    frame = rows_of(times=60)
    late = pd.DataFrame({"user": 77, "item": range(100, 110), "rating": 1.0, "time": 99})
    made = federation(pd.concat([frame, late], ignore_index=True), split="time")
    assert 77 not in made.user_ids
    assert made.cleaning["users_without_training"] >= 1
    assert made.cleaning["rows_without_training"] >= 10


def test_rows_of_one_time_cannot_be_divided_by_a_moment():
    with pytest.raises(UserError, match=r"rows: no moments divide .*val_share"):
        federation(rows_of().assign(time=5), split="time")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6), st.integers(0, 5),
       st.integers(0, 4))  # fmt: skip
def test_filters_equal_a_plain_loop(seed, min_users, min_items, k_core, min_rating):
    frame = rows_of(120, 15, 25, seed)
    rows = [row[::3] for row in used_rows(frame, 0, min_rating)]  # (user, item)
    least = {1: max(min_items, k_core), 0: max(min_users, k_core)}
    while True:
        before = len(rows)
        for column, threshold in least.items():
            values = [row[column] for row in rows]
            rows = [row for row in rows if values.count(row[column]) >= threshold]
        if not k_core or len(rows) == before:
            break
    switches = {"min_interactions": min_users, "min_item_interactions": min_items,
                "k_core": k_core, "min_rating": min_rating}  # fmt: skip
    kept, counts = clean(frame, preset("leak-free", **switches), "rows") if rows else ([], {})
    assert {tuple(frame.iloc[row][["user", "item"]]) for row in kept} == set(rows)
    if not rows:
        with pytest.raises(UserError, match="nothing is left of 120 rows"):
            clean(frame, preset("leak-free", **switches), "rows")
        return
    lost = ("rows_unrated", "rows_below_min_rating", "rows_collapsed", "rows_of_items_dropped",
            "rows_dropped")  # fmt: skip
    assert counts["rows_read"] - sum(counts[name] for name in lost) == len(rows)


@pytest.mark.parametrize("protocol", ["leak-free", "paper"])
def test_each_held_out_item_has_its_own_candidates_outside_the_history(protocol):
    frame = rows_of(900, 12, 90)
    made = federation(frame, protocol, split="ratio", test_share=0.3, num_candidates=10)
    several = 0
    for client in range(made.num_clients):
        lists = {}
        for part in ("val", "test"):
            start, end = getattr(made, f"{part}_offsets")[client : client + 2]
            lists[part] = getattr(made, f"{part}_candidates")[start:end]
        history = {*made.train_items(client), *made.held_out("val", client),
                   *made.held_out("test", client)}  # fmt: skip
        for drawn in (*lists["val"], *lists["test"]):
            assert len(set(drawn)) == 10
            assert not history & set(drawn)
        several += len({tuple(drawn) for drawn in lists["test"]}) > 1
        if protocol == "leak-free":
            assert not set(lists["val"].ravel()) & set(lists["test"].ravel())
    assert several == made.num_clients
    assert made.fingerprint != federation(frame, protocol, num_candidates=10).fingerprint


def test_repeats_that_are_kept_hold_nothing_out_that_was_trained_on():
    frame = rows_of(900, 12, 30)
    made = federation(frame, "paper", split="ratio", num_candidates=1, min_interactions=3)
    assert made.cleaning["rows_held_out_twice"] > 0
    for train, val, test in histories(made).values():
        assert len({*val, *test}) == len(val) + len(test)
        assert not {*val, *test} & set(train)


# --- files and tables of their own ----------------------------------------------------------------


def given_files(folder, suffix=".csv"):
    frames = {
        "train": pd.DataFrame({"user": list("aaabbbcc"), "item": [1, 2, 3, 2, 3, 4, 5, 6]}),
        "val": pd.DataFrame({"user": list("abz"), "item": [4, 5, 1]}),
        "test": pd.DataFrame({"user": list("aabb"), "item": [5, 7, 1, 2]}),
    }
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}{suffix}", index=False)
    return frames, {name: str(folder / f"{name}{suffix}") for name in frames}


def test_given_files_are_split_as_they_are(tmp_path):
    frames, paths = given_files(tmp_path)
    rules = preset("leak-free", split="given", num_candidates=1, candidates="shared")
    made = fj.load(paths["train"], rules, val_file=paths["val"], test_file=paths["test"])
    assert histories(made) == {
        "a": ([1, 2, 3], [4], [5, 7]),
        "b": ([2, 3, 4], [5], [1]),  # 2 was trained on
        "c": ([5, 6], [], []),
    }
    assert made.cleaning["rows_collapsed"] == 1
    assert made.cleaning["users_without_training"] == 1  # z
    config = FedEM(dataset=paths["train"], val_file=paths["val"], test_file=paths["test"],
                   num_candidates=1, candidates="shared")  # fmt: skip
    assert federation_of(config).fingerprint == made.fingerprint
    table = fj.federation(frames["train"], rules, val=frames["val"], test=frames["test"])
    assert table.fingerprint == made.fingerprint


def test_one_of_two_files_is_refused_with_the_remedy(tmp_path):
    frames, paths = given_files(tmp_path)
    with pytest.raises(UserError, match=r"train.csv: split=given takes val_file and test_file"):
        fj.load(paths["train"], test_file=paths["test"])
    with pytest.raises(UserError, match="split=given takes val_file"):
        fj.load(paths["train"], preset("leak-free", split="given"))
    with pytest.raises(UserError, match="split=given takes val_file"):
        fj.load(paths["train"], PROTOCOLS["paper"], val_file=paths["val"], test_file=paths["test"])
    with pytest.raises(UserError, match="val, test: split=given takes both"):
        fj.federation(frames["train"], test=frames["test"])


def test_files_of_other_users_are_refused(tmp_path):
    _, paths = given_files(tmp_path)
    pd.DataFrame({"user": ["x"], "item": [1]}).to_csv(paths["val"], index=False)
    with pytest.raises(UserError, match="no row is left for validation; give files of the same"):
        fj.load(paths["train"], val_file=paths["val"], test_file=paths["test"])


# --- rules ----------------------------------------------------------------------------------------


def test_later_rules_enter_a_fingerprint_only_when_they_change_something():
    for rules in PROTOCOLS.values():
        assert not set(switches_of(rules)) & set(LATER)
    assert set(switches_of(preset("leak-free", k_core=5, split="ratio"))) >= {"k_core", "split"}


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match=r"val_share, test_share: 0.5 and 0.6 leave nothing"):
        FedEM(split="ratio", val_share=0.5, test_share=0.6).rules()

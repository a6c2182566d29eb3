"""Shards of a sweep: how it is divided, and what is collected of them."""

import dataclasses

import pandas as pd
import pytest
from slope import Slope, put_among_methods

from fedem_jax.errors import UserError
from fedem_jax.storage.lock import exclusive
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.plans import ABOUT
from fedem_jax.sweeps.run import sweep
from fedem_jax.sweeps.runner import in_line
from fedem_jax.sweeps.shards import Shard, Unfinished, without_password
from fedem_jax.sweeps.space import space

CONFIG = Slope(dataset="small", rounds=2, eval_every=2)
VARY = ["speed=0.1,1,20", "dim=4,8"]


@pytest.fixture(autouse=True)
def method(monkeypatch):
    """`slope` among the methods, and a small federation for every seed."""
    put_among_methods(monkeypatch)


class Programs:
    """A watcher that counts trials and programs, and may interrupt after so many chunks."""

    def __init__(self, most: int = 0):
        self.trials, self.programs, self.most = 0, 0, most

    def plan(self, sweep, federation, shapes):
        self.programs += len(shapes)

    def chunk(self, shape, results, trials, seconds):
        self.trials += trials
        if self.trials == self.most:
            raise KeyboardInterrupt


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal tables, but for the seconds."""
    pd.testing.assert_frame_equal(
        one.drop(columns="seconds", errors="ignore"), other.drop(columns="seconds", errors="ignore")
    )


# --- the division ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "of"), [(12, 1), (12, 5), (7, 7)])
def test_every_unit_is_in_one_part_and_parts_are_as_long(units, of):
    parts = [Shard(number, of).cut(range(units)) for number in range(1, of + 1)]
    assert [unit for part in parts for unit in part] == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_trials_of_a_program_and_of_a_setting_are_neighbours():
    wanted = Sweep(CONFIG, space(Slope, ["speed=0.1,1", "dim=4,8"]), (0, 1))
    assert [(s["speed"], s["dim"]) for s in wanted.settings()] == [
        (0.1, 4), (0.1, 8), (1.0, 4), (1.0, 8)
    ]  # fmt: skip
    trials = in_line(wanted, ["speed"])
    assert trials == [(n, seed) for n in (0, 2, 1, 3) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "'3' is no part of a sweep; write i/n"),
        ("1/2/3", "is no part of a sweep"),
        ("-1/2", "is no part of a sweep"),
        ("0/8", "no part 0 of 8; they count from 1, so add 1 to an index"),
        ("9/8", r"no part 9 of 8; they count from 1\."),
    ],
)
def test_a_part_that_does_not_exist_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Shard.read(text)
    assert Shard.read(" 3/8 ") == Shard(3, 8)


# --- run and collect ------------------------------------------------------------------------------


def test_shards_collected_are_the_sweep_of_one_process(tmp_path):
    whole = sweep(CONFIG, VARY, seeds=2)
    watches = [Programs() for _ in range(3)]
    for number in (3, 1, 2):  # in any order
        part = sweep(
            CONFIG, VARY, seeds=2, out=tmp_path, shard=f"{number}/3", watch=watches[number - 1]
        )
        assert len(part.trials) == 4
        assert f"shard {number}/3" in repr(part)
    assert [watch.trials for watch in watches] == [4, 4, 4]
    assert [watch.programs for watch in watches] == [1, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    for _ in range(2):  # also a second time
        found = sweep(CONFIG, VARY, seeds=2, out=tmp_path, collect=True)
        same(found.trials, whole.trials)
        same(found.curves, whole.curves)
        same(found.table, whole.table)
        assert found.best == whole.best
        assert {**found.about, "seconds": 0} == {**whole.about, "seconds": 0}
    again = Programs()
    sweep(CONFIG, VARY, seeds=2, out=tmp_path, watch=again)
    assert again.trials == 0  # one process goes on from there


@pytest.mark.slow
def test_what_is_missing_is_said_and_runs_again(tmp_path):
    def part(shard="", **how):
        return sweep(CONFIG, ["speed=0.1,1,2,3"], out=tmp_path, shard=shard, **how)

    with pytest.raises(UserError, match=r"shards: holds no shard; run --shard 1/n"):
        part(collect=True)
    part("1/3")
    with pytest.raises(KeyboardInterrupt):
        part("3/3", watch=Programs(most=1))
    with pytest.raises(Unfinished, match="2/3 is missing; 3/3 lacks 1 of 2 trials") as error:
        part(collect=True)
    assert error.value.shards == [Shard(2, 3), Shard(3, 3)]
    assert "run shard='2/3' and shard='3/3' again" in str(error.value)
    assert not (tmp_path / ABOUT).exists()

    part("2/3")
    rest = Programs()
    part("3/3", watch=rest)
    assert rest.trials == 1
    folder = Shard(3, 3).folder(tmp_path)
    with exclusive(folder), pytest.raises(Unfinished, match=r"at 3/3 process \d+ on .* is at work"):
        part(collect=True)
    (folder / ABOUT).unlink()
    with pytest.raises(Unfinished, match=r"\(3/3 has not ended\)"):
        part(collect=True)
    part("3/3")
    assert len(part(collect=True).trials) == 4


def test_shards_of_other_sweeps_and_divisions_are_refused(tmp_path):
    how = {"vary": ["speed=0.1,1"], "out": tmp_path}
    sweep(CONFIG, **how, shard="1/2")
    other = dataclasses.replace(CONFIG, rounds=1)
    for action in ({"shard": "2/2"}, {"collect": True}):
        with pytest.raises(UserError, match=r"1-of-2: holds another sweep \(.*rounds 2, now 1\)"):
            sweep(other, **how, **action)
    with pytest.raises(UserError, match=r"1-of-1: is one of 1 parts, and .*1-of-2 one of 2"):
        sweep(CONFIG, **how, shard="1/1")
    Shard(1, 2).folder(tmp_path).rename(Shard(1, 1).folder(tmp_path))
    sweep(CONFIG, **how, shard="1/1")
    (tmp_path / "shards" / "1-of-2").mkdir()  # without a plan it is no shard yet
    assert len(sweep(CONFIG, **how, collect=True).trials) == 2


@pytest.mark.slow
def test_seeds_may_be_added(tmp_path):
    for seeds in (1, 2):
        for shard in ("1/2", "2/2"):
            sweep(CONFIG, ["speed=0.1,1"], seeds=seeds, out=tmp_path, shard=shard)
    found = sweep(CONFIG, ["speed=0.1,1"], seeds=2, out=tmp_path, collect=True)
    same(found.trials, sweep(CONFIG, ["speed=0.1,1"], seeds=2).trials)


# --- Optuna ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["{}/search.journal", "sqlite:///{}/search.db"])
@pytest.mark.slow
def test_shards_of_a_search_by_optuna_share_its_trials(tmp_path, storage):
    optuna = pytest.importorskip("optuna")
    how = {
        "search": "optuna", "trials": 7, "out": tmp_path, "width": 2,
        "storage": storage.format(tmp_path),
    }  # fmt: skip
    vary = ["speed=log:0.01:5"]
    first, cut = Programs(), Programs(most=2)
    one = sweep(CONFIG, vary, shard="1/2", watch=first, **how)
    with pytest.raises(KeyboardInterrupt):
        sweep(CONFIG, vary, shard="2/2", watch=cut, **how)
    with pytest.raises(Unfinished, match=r"\(2/2 has not ended\)"):
        sweep(CONFIG, vary, collect=True, **how)
    rest = Programs()
    two = sweep(CONFIG, vary, shard="2/2", watch=rest, **how)
    assert [watch.trials for watch in (first, cut, rest)] == [3, 2, 2]
    assert not set(one.trials["speed"]) & set(two.trials["speed"])

    found = sweep(CONFIG, vary, collect=True, **how)
    assert set(found.trials["speed"]) == {*one.trials["speed"], *two.trials["speed"]}
    assert len(found.trials) == 7
    place = how["storage"]
    if place.endswith(".journal"):
        backend = optuna.storages.journal.JournalFileBackend(place)
        place = optuna.storages.JournalStorage(backend)
    (name,) = optuna.get_all_study_names(place)
    kept = optuna.load_study(study_name=name, storage=place).get_trials()
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in kept)
    best = found.trials.set_index("speed")["val hr@5"].to_dict()
    assert {trial.params["speed"]: trial.value for trial in kept} == pytest.approx(best)

    Shard(1, 2).folder(tmp_path).rename(tmp_path / "lost")
    again = sweep(CONFIG, vary, shard="1/2", **how)
    same(again.trials, one.trials)


def test_a_search_by_one_process_may_be_kept_too(tmp_path):
    pytest.importorskip("optuna")
    how = {"search": "optuna", "trials": 2, "storage": str(tmp_path / "one.journal")}
    first = sweep(CONFIG, ["speed=log:0.01:5"], **how)
    watch = Programs()
    again = sweep(CONFIG, ["speed=log:0.01:5"], watch=watch, **how)
    same(again.trials, first.trials)
    assert watch.trials == 2  # nothing else was asked for


def test_shards_that_make_a_database_at_once_try_again(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    created, refused = optuna.create_study, type("IntegrityError", (Exception,), {})
    left = [1, 1]

    def create_study(**how):
        if left:
            left.pop()
            raise refused("table exists")
        return created(**how)

    monkeypatch.setattr(optuna, "create_study", create_study)
    monkeypatch.setattr("fedem_jax.sweeps.suggest.WAITS", (0.0,))
    how = {"search": "optuna", "trials": 1, "storage": str(tmp_path / "one.journal")}
    with pytest.raises(UserError, match=r"cannot be opened \(table exists\)"):
        sweep(CONFIG, ["speed=1,2"], **how)
    left.append(1)
    assert len(sweep(CONFIG, ["speed=1,2"], **how).trials) == 1


# --- what does not go together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"shard": "1/2", "halving": 2}, "halving: compares all settings .* without --shard"),
        ({"collect": True, "halving": 2}, "halving: compares all settings"),
        ({"shard": "1/2", "collect": True}, "collect: makes the tables of all shards; leave"),
        ({"shard": "1/3"}, "3 parts of 2 leave some without any; give at most 1/2"),
        ({"shard": "1/2", "search": "optuna", "trials": 2}, "give the same --storage PATH.journal"),
        ({"shard": "1/2", "storage": "x.journal"}, "storage: is for --search optuna"),
        ({"search": "optuna", "trials": 2, "storage": "x"}, "'x' is no place for the trials"),
        (
            {"search": "optuna", "trials": 2, "storage": "no://u:secret@x"},
            r"no://u:\*\*\*@x cannot",
        ),
        (
            {"search": "optuna", "trials": 2, "storage": "postgresql+pg8000://u:secret@x/y"},
            r"pg8000://u:\*\*\*@x/y needs the Python package pg8000, which is not installed",
        ),
        ({"search": "optuna", "trials": 2, "storage": "no/x.journal"}, "cannot be opened"),
        ({"shard": "1/2", "out": ""}, "shard: needs a folder that all shards share"),
    ],
)
def test_what_does_not_go_with_shards_is_refused(tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        sweep(CONFIG, ["speed=0.1,1"], **{"out": tmp_path} | how)


def test_a_password_is_shown_nowhere():
    assert without_password("postgresql://me:pw@host:5/db") == "postgresql://me:***@host:5/db"
    assert without_password("--out a:b@c sqlite:///x.db") == "--out a:b@c sqlite:///x.db"

"""Sweeps of a method that compiles at once: what is run, kept, resumed, chosen."""

import dataclasses
import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from slope import FEDERATION, SELECTED, Slope, Turning, put_among_methods, turning

from fedem_jax.config.registry import METHODS, Method
from fedem_jax.errors import UserError
from fedem_jax.runs.train import run
from fedem_jax.storage.lock import LOCK, Lock
from fedem_jax.sweeps import run as sweeping
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.plans import PLAN
from fedem_jax.sweeps.run import sweep
from fedem_jax.sweeps.search import Rung, rungs

NEVER = 1e9


class Counted:
    """A watcher that counts what was run, and may interrupt after so many chunks."""

    def __init__(self, most: float = NEVER):
        self.trials, self.shapes, self.most, self.chunks = 0, [], most, 0

    def plan(self, sweep, federation, shapes):
        self.shapes.append(shapes)

    def chunk(self, shape, ledger, trials, seconds):
        self.trials += trials
        self.chunks += 1
        if self.chunks >= self.most:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def method(monkeypatch):
    """`slope` among the methods, and a small federation for every seed."""
    put_among_methods(monkeypatch)


def quick(**changes):
    return Slope(dataset="small", **{"rounds": 4, "eval_every": 2} | changes)


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    lock = Lock(tmp_path)
    with pytest.raises(UserError, match="is at work there"):
        sweep(quick(), ["speed=0.1"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    lock.release()
    sweep(quick(), ["speed=0.1"], out=tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_a_sweep_enters_every_trial_and_finds_the_best(tmp_path):
    watch = Counted()
    result = sweep(quick(), ["speed=0.1,1,3", "dim=4,8"], seeds=2, out=tmp_path / "s", watch=watch)
    (shapes,) = watch.shapes
    assert [shape.program.dim for shape in shapes] == [4, 8]  # one program each, whatever the speed
    assert watch.trials == len(result.trials) == 12
    assert set(result.trials["status"]) == {"done"}
    assert (result.best.speed, result.best.dim, result.best.seed) == (3.0, 4, 0)
    assert result.settings["speed"].iloc[0] == 3.0
    best = result.trials[result.trials["setting"] == result.settings["setting"].iloc[0]]
    for metric in ("val hr@5", "test ndcg@5", "test_full hr@5"):
        assert result.settings[metric].iloc[0] == pytest.approx(best[metric].mean())
        assert result.settings[f"{metric} sd"].iloc[0] == pytest.approx(best[metric].std(ddof=1))
    assert list(result.curves["round"].unique()) == [2, 4]
    kept = pd.read_parquet(tmp_path / "s" / "trials.parquet")
    pd.testing.assert_frame_equal(kept, result.trials)
    assert len(pd.read_csv(tmp_path / "s" / "trials.csv")) == 12


@cache
def alone(config):
    """A run of one trial by itself, or what it says as its numbers explode."""
    try:
        return run(config, dataclasses.replace(FEDERATION, seed=config.seed))
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(("width", "chunk"), [(0, 0), (3, 0), (2, 6), (1, 4)])
@pytest.mark.slow_but("2-6")
def test_a_trial_of_a_stack_is_the_run_by_itself(width, chunk):
    config = quick(rounds=5, init_scale=0.7)
    found = sweep(config, ["speed=0.3,1,20"], seeds=2, width=width, chunk=chunk)
    for trial in found.trials.to_dict("records"):
        own = alone(dataclasses.replace(config, seed=trial["seed"], speed=trial["speed"]))
        if isinstance(own, str):  # it takes none of its neighbours with it
            assert "round 4" in own
            assert trial["status"] == "diverged at round 4"
            continue
        chosen = own.summary["headline"]
        assert (trial["best_round"], trial["rounds"]) == (chosen["round"], 5)
        for part in ("val", "test", "val_full", "test_full"):
            for metric in ("hr@5", "ndcg@5"):
                assert trial[f"{part} {metric}"] == pytest.approx(chosen[part][metric], abs=1e-12)
        rows = found.curves.query("setting == @trial['setting'] and seed == @trial['seed']")
        assert list(rows["round"]) == [2, 4, 5]
        np.testing.assert_allclose(rows["loss"], [r["loss"] for r in own.records], rtol=1e-6)


def test_a_folder_of_an_earlier_version_goes_on_where_it_lacks_a_setting(tmp_path):
    sweep(quick(), ["speed=0.1,1"], out=tmp_path)
    saved = json.loads((tmp_path / PLAN).read_text())
    del saved["plan"]["config"]["split"]
    (tmp_path / PLAN).write_text(json.dumps(saved))
    again = Counted()
    sweep(quick(), ["speed=0.1,1"], out=tmp_path, watch=again)
    assert again.trials == 0
    saved["plan"]["config"]["split"] = "ratio"
    (tmp_path / PLAN).write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"holds another sweep .*config split 'ratio', now ''"):
        sweep(quick(), ["speed=0.1,1"], out=tmp_path)


def test_a_sweep_that_was_cut_off_runs_what_is_missing(tmp_path):
    whole = sweep(quick(), ["speed=0.1,1,3,20"], seeds=2)
    first, second = Counted(most=3), Counted()
    with pytest.raises(KeyboardInterrupt):
        sweep(quick(), ["speed=0.1,1,3,20"], seeds=2, out=tmp_path, watch=first)
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 3
    result = sweep(quick(), ["speed=0.1,1,3,20"], seeds=2, out=tmp_path, watch=second)
    assert (first.trials, second.trials) == (3, 5)
    pd.testing.assert_frame_equal(
        result.trials.drop(columns="seconds"), whole.trials.drop(columns="seconds")
    )
    assert not list(tmp_path.glob("*.partial"))
    again = Counted()
    sweep(quick(), ["speed=0.1,1,3,20"], seeds=3, out=tmp_path, watch=again)
    assert again.trials == 4  # those of the new seed
    with pytest.raises(UserError, match=r"holds another sweep \(.*speed=0.1,1.*now.*speed=0.1,2"):
        sweep(quick(), ["speed=0.1,2"], seeds=3, out=tmp_path)
    with pytest.raises(UserError, match="config rounds 4, now 6"):
        sweep(quick(rounds=6), ["speed=0.1,1,3,20"], seeds=3, out=tmp_path)


def test_data_that_changed_are_refused(tmp_path, monkeypatch):
    sweep(quick(), ["speed=1"], out=tmp_path)
    other = dataclasses.replace(FEDERATION, fingerprint="0123456789abcdef")
    monkeypatch.setattr("fedem_jax.sweeps.run.federation_of", lambda config: other)
    with pytest.raises(UserError, match=r"splits 0 .*now '0123456789abcdef'"):
        sweep(quick(), ["speed=1"], out=tmp_path)


def test_a_trial_that_diverges_at_once_has_no_metrics(tmp_path):
    for _ in range(2):  # as it ran, and as it was read back
        result = sweep(quick(eval_every=4), ["speed=20,1"], out=tmp_path)
        assert list(result.trials["status"]) == ["diverged at round 4", "done"]
        assert np.isnan(result.trials["test hr@5"].iloc[0])
        assert result.best.speed == 1.0


def test_no_setting_that_stays_finite_is_an_error():
    with pytest.raises(UserError, match="no setting stayed finite"):
        sweep(quick(), ["speed=20,30"])


@pytest.mark.slow
def test_halving_runs_survivors_on_from_where_they_were(tmp_path):
    config = quick(rounds=8, eval_every=1)
    whole = sweep(config, ["speed=0.1,0.2,0.5,1,20,2,4"], seeds=2)
    watch = Counted()
    halved = sweep(
        config, ["speed=0.1,0.2,0.5,1,20,2,4"], seeds=2, halving=2, out=tmp_path / "h", watch=watch
    )
    firsts = [shape.first for shapes in watch.shapes for shape in shapes]
    assert firsts == [0, 2, 4]  # nobody began anew
    assert [s.ends[-1] for shapes in watch.shapes for s in shapes] == [2, 4, 8]
    assert halved.best == whole.best
    done = halved.trials[halved.trials["status"] == "done"]
    assert len(done) == 4
    pd.testing.assert_frame_equal(
        done.drop(columns="seconds").reset_index(drop=True),
        whole.trials[whole.trials["setting"].isin(done["setting"])]
        .drop(columns="seconds")
        .reset_index(drop=True),
    )
    assert "stopped early" in set(halved.trials["status"])

    cut = Counted(most=15)  # in the second rung
    with pytest.raises(KeyboardInterrupt):
        sweep(config, ["speed=0.1,0.2,0.5,1,20,2,4"], seeds=2, halving=2, out=tmp_path / "k",
            watch=cut)  # fmt: skip
    later = Counted()
    resumed = sweep(
        config, ["speed=0.1,0.2,0.5,1,20,2,4"], seeds=2, halving=2, out=tmp_path / "k", watch=later
    )
    assert later.shapes[0][0].first == 0  # their states are lost with the process
    pd.testing.assert_frame_equal(
        resumed.trials.drop(columns="seconds"), halved.trials.drop(columns="seconds")
    )


@pytest.mark.slow
def test_states_that_do_not_fit_are_run_anew(monkeypatch):
    config = quick(rounds=8, eval_every=1)
    ample = sweep(config, ["speed=0.1,0.5,1,4"], halving=2)
    monkeypatch.setattr("fedem_jax.sweeps.runner.free_memory", lambda: 0)
    watch = Counted()
    tight = sweep(config, ["speed=0.1,0.5,1,4"], halving=2, watch=watch)
    assert {shape.first for shapes in watch.shapes for shape in shapes} == {0}
    pd.testing.assert_frame_equal(
        tight.trials.drop(columns="seconds"), ample.trials.drop(columns="seconds")
    )


def test_rungs_hold_a_share_of_the_settings_each():
    assert rungs(27, 90, 1, 3) == [Rung(27, 10), Rung(9, 30), Rung(3, 90)]
    assert rungs(8, 20, 5, 2) == [Rung(8, 5), Rung(4, 10), Rung(2, 20)]
    assert rungs(2, 100, 1, 3) == [Rung(2, 100)]
    assert rungs(100, 4, 4, 3) == [Rung(100, 4)]


def test_optuna_asks_and_is_told(tmp_path):
    pytest.importorskip("optuna")
    vary = ["speed=log:0.01:5", "init_scale=0.5,2"]
    search = {"search": "optuna", "trials": 14, "seeds": 2, "width": 4}
    whole = sweep(quick(), vary, **search)
    assert 12 <= len(whole.settings) <= 14
    assert whole.trials["speed"].between(0.01, 5).all()
    assert set(whole.trials["init_scale"]) == {0.5, 2.0}
    with pytest.raises(KeyboardInterrupt):
        sweep(quick(), vary, **search, out=tmp_path, watch=Counted(most=3))
    watch = Counted()
    resumed = sweep(quick(), vary, **search, out=tmp_path, watch=watch)
    assert watch.trials < 28
    pd.testing.assert_frame_equal(
        resumed.trials.drop(columns="seconds"), whole.trials.drop(columns="seconds")
    )


def test_settings_drawn_at_random_stay_the_same_when_more_are_drawn(tmp_path):
    few = sweep(quick(), ["speed=log:0.01:5"], search="random", trials=2, out=tmp_path)
    watch = Counted()
    more = sweep(
        quick(), ["speed=log:0.01:5"], search="random", trials=4, out=tmp_path, watch=watch
    )
    assert watch.trials == 2
    assert list(more.trials["speed"][:2]) == list(few.trials["speed"])
    assert len(set(more.trials["speed"])) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "gird"}, "search: 'gird' is unknown; did you mean 'grid'"),
        ({"select": "test"}, "select: 'test' is unknown"),
        ({"seeds": ()}, "seeds: give at least one"),
        ({"search": "random"}, "give --trials N"),
        ({"trials": 3}, "a grid runs all its settings"),
        ({"halving": 1}, "halving: 1 drops nothing"),
        ({"halving": 2, "search": "optuna", "trials": 3}, "not with optuna"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    values = sweeping.space(Slope, ["speed=1,2"])
    with pytest.raises(UserError, match=message):
        Sweep(**{"config": quick(), "varied": values, "seeds": (0,)} | changes)


def test_a_value_out_of_range_is_refused_before_anything_runs():
    for search in ({}, {"search": "optuna", "trials": 3}):
        with pytest.raises(UserError, match=r"vary: speed: -1.0 is out of range"):
            sweep(quick(), ["speed=1,-1"], **search)


@pytest.mark.parametrize("select", SELECTED)
def test_select_decides_about_rounds_and_settings(monkeypatch, select):
    """Settings that are best among the candidates are the worst among all items."""
    monkeypatch.setitem(METHODS, "turning", Method(Turning, turning))
    values, chosen, order = SELECTED[select]
    result = sweep(Turning(dataset="small"), ["turn=9,0.5,1.5"], select=select)
    for trial in result.trials.to_dict("records"):
        found = (trial["val hr@5"], trial["val_full hr@5"])
        assert found == pytest.approx(values[trial["turn"]])
    best_round = result.trials.set_index("turn")["best_round"]
    assert best_round[1.5] == chosen
    assert list(result.settings["turn"]) == order
    assert result.best.turn == order[0]


def test_the_winner_is_an_experiment_of_its_own(tmp_path):
    result = sweep(quick(), ["speed=0.1,1"], out=tmp_path)
    result.best.save(tmp_path / "best.json")
    held = json.loads((tmp_path / "best.json").read_text())
    assert held["speed"] == 1.0
    assert (held["seed"], held["out"]) == (0, "")

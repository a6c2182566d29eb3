"""The models that a sweep keeps, and a watcher that ends it."""

import dataclasses

import chex
import pandas as pd
import pytest
from slope import FEDERATION, Slope, Turning, slope, turning
from toy import small_federation

import fedem_jax as fj
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.errors import UserError
from fedem_jax.runs.train import run
from fedem_jax.sweeps import kept
from fedem_jax.sweeps.plans import ABOUT
from fedem_jax.sweeps.run import sweep

CONFIG = Slope(dataset="small", rounds=4, eval_every=2)


@pytest.fixture(autouse=True)
def method(monkeypatch):
    """Methods that compile at once, among the others."""
    monkeypatch.setitem(METHODS, "slope", Method(Slope, slope))
    monkeypatch.setitem(METHODS, "turning", Method(Turning, turning))


class Counted:
    """A watcher that counts trials, and ends the sweep after so many, with this answer."""

    def __init__(self, most: int = 0, answer: str | bool = True):
        self.trials, self.most, self.answer = 0, most, answer

    def plan(self, sweep, federation, shapes):
        pass

    def chunk(self, shape, results, trials, seconds):
        self.trials += trials
        return self.answer if self.trials == self.most else None


def assert_same(found: fj.Result, alone: fj.Result) -> None:
    """The same run, as far as a sweep knows it."""
    lists = [each.recommend(k=5) for each in (found, alone)]
    pd.testing.assert_frame_equal(*lists, rtol=1e-4)
    assert found.evaluate() == alone.evaluate()
    assert found.config == alone.config
    headlines = [each.summary["headline"] for each in (found, alone)]
    chex.assert_trees_all_close(*headlines, rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(found.per_client, alone.per_client)
    names = [name for name in found.curve if name.endswith("@5")]
    assert len(names) >= 8
    pd.testing.assert_frame_equal(found.curve[names], alone.curve[names], atol=1e-12)
    assert repr(found) == repr(alone)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_a_kept_trial_is_the_run_of_its_settings(tmp_path, stored):
    """At its best round on validation, which is not its last."""
    config, out = Turning(dataset="small", rounds=3), tmp_path / "s" if stored else ""
    how = {"vary": ["turn=1.5,9"], "federation": FEDERATION, "out": out, "keep_states": True}
    result = sweep(config, **how)
    setting = int(result.trials.query("turn == 1.5")["setting"].iloc[0])
    found = result.run(setting, 0)
    assert found.summary["headline"]["round"] == 1
    assert_same(found, run(dataclasses.replace(config, turn=1.5), FEDERATION))
    with pytest.raises(UserError, match="no state of round 3"):
        found.recommend(round="last")
    assert result.run().config == result.best
    assert result.run(1 - setting).summary["headline"]["round"] == 3  # the latest of several
    if stored:
        again = Counted()
        later = sweep(config, **how, watch=again)
        assert again.trials == 0
        assert_same(later.run(setting, 0), found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedmf", "fedem"])
def test_a_trial_beside_others_is_kept_too(method):
    data = small_federation(clients=6, items=40)
    few = {"dim": 4, "rounds": 3, "num_negative": 2, "local_epochs": 1, "top_k": 5}
    config = fj.preset("released", method=method, dataset=data.name, size_classes=1, **few)
    how = {"seeds": 2, "width": 2, "chunk": 4, "keep_states": True}
    result = sweep(config, ["lr_embedding=0.1,0.5"], data, **how)
    assert_same(result.run(1, 1), run(dataclasses.replace(config, lr_embedding=0.5, seed=1), data))


def test_a_trial_whose_state_is_lost_runs_again(tmp_path):
    how = {"vary": ["speed=0.1,1,20"], "federation": FEDERATION, "out": tmp_path}
    sweep(CONFIG, **how)
    watch = Counted()
    result = sweep(CONFIG, **how, watch=watch, keep_states=True)
    assert watch.trials == 2  # one diverges, and has no state
    with pytest.raises(UserError, match="setting 2 with seed 0 has no model: it diverged at round"):
        result.run(2)
    with pytest.raises(UserError, match="setting 0 with seed 7 has no model: it is not in"):
        result.run(0, 7)
    with pytest.raises(UserError, match="no models were kept"):
        sweep(CONFIG, **how).run()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"halving": 2}, "keep_states: does not go with halving"),
        ({"shard": "1/2", "out": "s"}, "keep_states: does not go with shard"),
        ({"collect": True, "out": "s"}, "keep_states: does not go with collect"),
        ({"select": "val_full"}, "keep_states: keeps the round that `fj.run` reports"),
    ],
)
def test_what_does_not_go_with_keeping_is_refused(how, message):
    with pytest.raises(UserError, match=message):
        sweep(CONFIG, ["speed=1,2"], FEDERATION, keep_states=True, **how)


def test_states_that_do_not_fit_are_refused_before_anything_runs(tmp_path, monkeypatch):
    watch = Counted()
    how = {"federation": FEDERATION, "keep_states": True, "watch": watch}
    size = 2 * 4 * (7 * 40)  # of two trials with a score for each client and item, at least
    monkeypatch.setattr(kept, "free_memory", lambda: 2 * size)
    with pytest.raises(UserError, match=r"keep_states: the states .* take 2\.\d+ kB, and 2\.24 kB"):
        sweep(CONFIG, ["speed=1,2"], **how)
    assert watch.trials == 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 7}))
    with pytest.raises(UserError, match=r"the states of all trials take .*, and 7 B are free"):
        sweep(CONFIG, ["speed=1,2"], **how, out=tmp_path)


# --- an early end ---------------------------------------------------------------------------------


def test_a_watcher_may_end_a_sweep_which_then_has_its_table(tmp_path):
    how = {"vary": ["speed=0.1,1,3"], "federation": FEDERATION, "out": tmp_path}
    watch = Counted(most=2, answer="good enough")
    assert isinstance(watch, fj.Watcher)
    result = sweep(CONFIG, **how, watch=watch)
    assert watch.trials == len(result.trials) == 2
    assert result.about["ended_early"] == "good enough"
    assert result.best.speed == 1.0
    assert (tmp_path / ABOUT).exists()
    rest = Counted()
    whole = sweep(CONFIG, **how, watch=rest)
    assert rest.trials == 1
    assert "ended_early" not in whole.about


def test_a_sweep_that_ended_too_early_says_so(tmp_path):
    optuna = pytest.importorskip("optuna")
    how = {"federation": FEDERATION, "watch": Counted(most=1)}
    message = r"ended early \(Counted asked for it\) before a setting had all its seeds"
    with pytest.raises(UserError, match=message):
        sweep(CONFIG, ["speed=0.1,1,3"], seeds=2, **how)
    search = {"search": "optuna", "trials": 2, "storage": str(tmp_path / "s.journal")}
    how = {"federation": FEDERATION, "out": tmp_path, **search}
    sweep(CONFIG, ["speed=0.1:1"], shard="1/1", watch=Counted(most=1), **how)
    backend = optuna.storages.journal.JournalFileBackend(search["storage"])
    (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(backend))
    assert study.n_trials == 1  # nothing else was asked for
    with pytest.raises(UserError, match="1/1 has not ended"):
        sweep(CONFIG, ["speed=0.1:1"], collect=True, **how)

"""A run is taken up after its data moved; a path may be spelled in any way; a second run of the
same settings gets a folder of its own."""

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest
from made_up import federation as made_up_federation

from fedem_jax.cli import main as cli
from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.comparisons.run import finished
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.config.words import differences, same_file
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.runs.checks import check_free
from fedem_jax.runs.directory import RunDirectory, save_candidates, stored_fingerprint
from fedem_jax.runs.train import run
from fedem_jax.sweeps.run import sweep

SMALL = {"num_candidates": 5, "min_interactions": 3, "dim": 2, "top_k": 3, "rounds": 2}


@pytest.fixture
def ratings(tmp_path, monkeypatch):
    """A small file of ratings in the working directory."""
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [
        f"{user},{item},5,{time}"
        for user in range(6)
        for time, item in enumerate(random.permutation(30)[:8])
    ]
    (tmp_path / "mine.csv").write_text("user,item,rating,timestamp\n" + "\n".join(rows) + "\n")
    return tmp_path / "mine.csv"


def cut_off(config, path):
    """Run the first round alone."""
    asked = iter([0, 15])
    with pytest.raises(Stopped):
        run(config, None, [], RunDirectory(path), lambda: next(asked))


def test_a_run_goes_on_after_its_data_moved(ratings, tmp_path, capsys):
    config = preset(dataset="mine.csv", method="fedmf", **SMALL)
    whole = run(config)
    cut_off(config, tmp_path / "r")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(ratings, tmp_path / "elsewhere" / "ours.csv")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--resume", "r"])
    assert end.value.code == 2
    cli.main(["train", "--resume", "r", "--dataset", str(moved)])
    assert "goes on after round 1" in capsys.readouterr().out
    found = (tmp_path / "r" / "summary.json").read_text()
    assert whole.summary["fingerprint"] in found
    assert str(whole.summary["headline"]["test"]["mrr"]) in found


def test_other_data_are_refused(ratings, tmp_path, capsys):
    config = preset(dataset="mine.csv", method="fedmf", **SMALL)
    cut_off(config, tmp_path / "r")
    lines = ratings.read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    before = (tmp_path / "r" / "config.json").read_text()
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--resume", "r", "--dataset", "other.csv"])
    assert end.value.code == 2
    assert "other data (data '" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "r" / "config.json").read_text() == before


def test_other_data_are_refused_before_the_first_checkpoint(tmp_path):
    config = FedEM(out=str(tmp_path))
    federation = made_up_federation(config)
    setting = {"config": config, "federation": federation, "device": "", "versions": {}}
    RunDirectory(tmp_path).on_start(setting)
    assert stored_fingerprint(tmp_path) == federation.fingerprint
    moved = setting | {"config": dataclasses.replace(config, dataset="b/c.csv")}
    RunDirectory(tmp_path, resume=True).on_start(moved)
    other = dataclasses.replace(federation, fingerprint="f" * 16)
    with pytest.raises(CannotResume, match=f"now '{'f' * 16}'"):
        RunDirectory(tmp_path, resume=True).on_start(moved | {"federation": other})


def test_candidates_that_are_torn_are_written_again(tmp_path):
    federation = made_up_federation()
    save_candidates(tmp_path / "candidates.npz", federation)
    content = (tmp_path / "candidates.npz").read_bytes()
    assert stored_fingerprint(tmp_path) == federation.fingerprint
    for torn in (content[:100], content[:-30], b""):
        (tmp_path / "candidates.npz").write_bytes(torn)
        assert stored_fingerprint(tmp_path) == ""


# --- paths ----------------------------------------------------------------------------------------


def test_spellings_of_a_path(ratings, tmp_path):
    whole = str(tmp_path / "mine.csv")
    (tmp_path / "bare").write_text("")
    for one, other in [
        ("mine.csv", "./mine.csv"), (whole, "mine.csv"), ("a/../mine.csv", whole),
        ("bare", "./bare"),
    ]:  # fmt: skip
        assert same_file(one, other)
        assert not differences({"dataset": one}, {"dataset": other})
    for one, other in [("mine.csv", "a/mine.csv"), ("ml-100k", "./ml-100k.csv"), (None, "x.csv")]:
        assert not same_file(one, other)
        assert differences({"dataset": one}, {"dataset": other})


def test_a_comparison_knows_its_runs_by_any_spelling(ratings, tmp_path):
    def planned(dataset):
        return plan_comparison(["fedmf"], dataset=dataset, seeds=1, out="c").runs()[0]

    first = planned("mine.csv")
    first.path.mkdir(parents=True)
    first.config.save(first.path / "config.json")
    (first.path / "summary.json").write_text("{}")
    for spelling in ("./mine.csv", str(ratings), os.path.relpath(ratings, tmp_path)):
        assert finished(planned(spelling))
    with pytest.raises(UserError, match="other settings"):
        finished(planned("a/mine.csv"))


@pytest.mark.slow
def test_a_sweep_knows_its_trials_by_any_spelling(ratings, tmp_path):
    def searched(dataset):
        config = preset(dataset=dataset, method="fedmf", **SMALL)
        return sweep(config, "lr_embedding=0.01,0.1", out=tmp_path / "s").about

    first = searched("mine.csv")
    for spelling in ("./mine.csv", str(ratings)):
        again = searched(spelling)
        assert again["fingerprint"] == first["fingerprint"]
        assert again["seconds"]["running"] == 0
    plan = tmp_path / "s" / "sweep.json"  # as earlier versions wrote it
    plan.write_text(plan.read_text().replace('"mine.csv"', '"./mine.csv"'))
    assert searched("mine.csv")["seconds"]["running"] == 0
    lines = ratings.read_text().splitlines()
    ratings.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    with pytest.raises(UserError, match="another sweep"):
        searched("mine.csv")


# --- folders --------------------------------------------------------------------------------------


def test_a_taken_folder_is_refused_with_the_commands_that_help(tmp_path):
    taken = tmp_path / "my run"
    taken.mkdir()
    FedEM().save(taken / "config.json")
    with pytest.raises(UserError) as error:
        check_free(taken)
    for words in (f"--out '{taken}-2'", f"rm -r '{taken}'", f"fedem train --resume '{taken}'"):
        assert words in str(error.value)
    (taken / "summary.json").write_text("{}")
    with pytest.raises(UserError) as error:
        check_free(taken)
    assert not re.search("--resume", str(error.value))

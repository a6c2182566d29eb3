"""Runs that are cut off and resumed: the same numbers to the bit, or a reason to refuse.

The toy shows the loop, small federations what methods keep.
"""

import dataclasses
import json
import os
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cutting import assert_equal, cut_off, lines_of, resumed, run, toys
from lab import config_of
from toy import Toy, small_federation, toy

from fedem_jax.config.base import INERT
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.runs import train
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.observers import Observer
from fedem_jax.runs.simulation import Simulation
from fedem_jax.storage.checkpoint import Checkpoints, found


@pytest.fixture(scope="module")
def federation():
    return small_federation()


# --- the loop, shown by the toy -------------------------------------------------------------------


@pytest.fixture
def config(monkeypatch, federation):
    return toys(monkeypatch, federation)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("segments", [[1], [2, 1], [1, 0, 1]])
def test_a_run_cut_off_at_any_round_ends_as_if_it_had_not_been(
    config, federation, tmp_path, every, segments
):
    config = dataclasses.replace(config, eval_every=every, rounds=7)
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    cut_off(config, federation, tmp_path / "cut", *segments)
    result, said = resumed(config, federation, tmp_path / "cut")
    done = [every * sum(segments[: number + 1]) for number in range(len(segments))]
    assert said == [f"{tmp_path / 'cut'}: goes on after round {done[-1]}."]
    assert result.summary["resumed"] == sorted(set(done))
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("segments", [[1], [2], [1, 1]])
def test_patience_outlives_a_kill(config, federation, tmp_path, segments):
    config = dataclasses.replace(config, patience=2, rounds=9)
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    assert whole.summary["rounds"] == 3
    cut_off(config, federation, tmp_path / "cut", *segments)
    result, _ = resumed(config, federation, tmp_path / "cut")
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("segments", [[], [1], [2, 1]])
def test_seconds_are_those_of_all_parts(config, federation, tmp_path, monkeypatch, segments):
    """By a clock that moves in the rounds and in compiling alone; each part has its own pace."""
    config = dataclasses.replace(config, eval_every=2, rounds=7)
    now, pace, segment = 0.0, 5.0, Simulation.segment

    def timed(self, state, length):
        nonlocal now
        program = segment(self, state, length)
        now += 10

        def rounds(*args):
            nonlocal now
            now += pace * length
            return program(*args)

        return rounds

    monkeypatch.setattr(Simulation, "segment", timed)
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: now))
    taken = []
    for part, number in enumerate(segments):
        cut_off(config, federation, tmp_path, number, resume=part > 0)
        taken += 2 * number * [pace]
        pace += 3
    if segments:
        result, _ = resumed(config, federation, tmp_path)
    else:
        result = run(config, federation, (), RunDirectory(tmp_path))
    taken += (7 - len(taken)) * [pace]
    assert result.summary["seconds_per_round"] == pytest.approx(sum(taken) / 7)
    assert [record["seconds"] for record in result.records] == [taken[n - 1] for n in (2, 4, 6, 7)]
    # what was compiled just before the signal is compiled again
    assert result.summary["compile_seconds"] == 10 * (4 + len(segments))


@pytest.mark.parametrize(("settings", "saved"), [
    ({"checkpoint_every": 2}, [2, 4, 5]),
    ({"checkpoint_every": 1}, [1, 2, 3, 4, 5]),
    ({"checkpoint_every": 3, "checkpoint_minutes": 0.0}, [3, 5]),
    ({"checkpoint_every": 3, "eval_every": 2}, [4, 5]),
    ({"checkpoint_minutes": 1e-9}, [1, 2, 3, 4, 5]),
    ({}, [5]),
    ({"checkpoint_minutes": 0.0}, [5]),
    ({"checkpoint_every": 2, "keep": "none"}, [2, 4]),
    ({"checkpoint_minutes": 0.0, "keep": "none"}, []),
])  # fmt: skip
def test_when_it_is_saved(config, federation, tmp_path, monkeypatch, settings, saved):
    """Each time with the best round so far, if that is not on disk; at the end those two alone."""
    config, calls, save = dataclasses.replace(config, **settings), [], Checkpoints.save

    def watched(self, *several):
        calls.append([each.about["round"] for each in several])
        save(self, *several)

    monkeypatch.setattr(Checkpoints, "save", watched)
    result = run(config, federation, (), RunDirectory(tmp_path / "run"))
    quality = {record["round"]: record["val"]["hr@3"] for record in result.records}

    def best_of(last):
        return max((n for n in quality if n <= last), key=lambda number: (quality[number], number))

    assert [call[-1] for call in calls] == saved
    written = set()
    for call in calls:
        wanted = {best_of(call[-1])} - written if config.keep != "none" else set()
        assert set(call) == {call[-1], *wanted}
        written |= set(call)
    kept = {best_of(config.rounds), config.rounds} if config.keep != "none" else set()
    assert set(found(tmp_path / "run" / "checkpoint")) == kept


def test_without_a_checkpoint_it_begins_anew(config, federation, tmp_path):
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    config = dataclasses.replace(config, checkpoint_minutes=0.0)
    cut_off(config, federation, tmp_path / "cut", 3)
    assert len(lines_of(tmp_path / "cut")) == 3
    config = dataclasses.replace(config, checkpoint_minutes=5.0)
    result, said = resumed(config, federation, tmp_path / "cut")
    assert said == [f"{tmp_path / 'cut'}: has no checkpoint yet, so it begins anew."]
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("tail", ['{"round": 3, "lo', '{"round": 3}\n{"rou', "\x00\x00", "\n"])
def test_lines_after_the_checkpoint_may_be_torn(config, federation, tmp_path, tail):
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    cut_off(config, federation, tmp_path / "cut", 2)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write(tail)
    result, _ = resumed(config, federation, tmp_path / "cut")
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(("line", "sentence"), [
    ('{"round": 2, "lo', r"metrics\.jsonl, line 2: is not JSON"),
    ("7", r"metrics\.jsonl, line 2: is no JSON object"),
    (None, r"metrics\.jsonl: lacks round 2"),
    ('{"loss": 2}', r"metrics\.jsonl: lacks round 2"),
])  # fmt: skip
def test_lines_before_the_checkpoint_must_be_whole(config, federation, tmp_path, line, sentence):
    cut_off(config, federation, tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1:2] = [] if line is None else [line]
    path.write_text("\n".join(lines) + "\n")
    before = path.read_text()
    with pytest.raises(CannotResume, match=sentence):
        resumed(config, federation, tmp_path)
    assert path.read_text() == before
    assert not (tmp_path / "lock").exists()


def test_a_damaged_checkpoint_costs_the_rounds_since_the_one_before(config, federation, tmp_path):
    config = dataclasses.replace(config, checkpoint_every=1)
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    cut_off(config, federation, tmp_path / "cut", 4)
    folders = found(tmp_path / "cut" / "checkpoint")
    number = min(folders)
    (folders[4] / "about.json").write_text("{}")
    result, said = resumed(config, federation, tmp_path / "cut")
    assert "round-000004: is damaged (about.json has 2 bytes of" in said[0]
    assert said[1:] == [f"{tmp_path / 'cut'}: goes on after round {number}."]
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")


def edit(path, change):
    """Change a checkpoint's description, and have the manifest agree."""
    from fedem_jax.storage.checkpoint import sha256

    folder = max(found(path / "checkpoint").items())[1]  # the latest
    about = json.loads((folder / "about.json").read_text())
    change(about)
    (folder / "about.json").write_text(json.dumps(about))
    manifest = json.loads((folder / "manifest.json").read_text())
    size = os.path.getsize(folder / "about.json")
    manifest["files"]["about.json"] = [size, sha256(folder / "about.json")]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_belongs_to_another_run_is_refused_with_the_difference(config, federation, tmp_path):
    cut_off(config, federation, tmp_path, 2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CannotResume, match=r"holds a run with other settings \(dim 16, now 8; "):
        resumed(dataclasses.replace(config, dim=8, size_classes=2), federation, tmp_path)
    other = dataclasses.replace(federation, fingerprint="0123")
    with pytest.raises(CannotResume, match=rf"data '{federation.fingerprint}', now '0123'"):
        resumed(config, other, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    edit(tmp_path, lambda about: about["versions"].update(fedem_jax="0.0.9"))
    with pytest.raises(CannotResume, match=r"version '0\.0\.9', now '\d"):
        resumed(config, federation, tmp_path)
    edit(tmp_path, lambda about: about["config"].update(seed=4))
    with pytest.raises(CannotResume, match=r"checkpoint: belongs to another run \(seed 4, now 0"):
        resumed(config, federation, tmp_path)


def test_another_jax_is_no_reason_to_refuse_but_to_say_so(config, federation, tmp_path):
    cut_off(config, federation, tmp_path, 2)
    edit(tmp_path, lambda about: about["versions"].update(jax="0.0.1"))
    _, said = resumed(config, federation, tmp_path)
    assert re.search(r"begun with jax '0\.0\.1', now '.*'; the last digits", said[0])


def test_what_changes_no_result_may_change_in_between(config, federation, tmp_path):
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    cut_off(config, federation, tmp_path / "first", 2)
    (tmp_path / "first").rename(tmp_path / "cut")
    changes = {"out": "elsewhere", "data_dir": "d", "checkpoint_every": 1, "block_size": 2}
    assert set(changes) <= set(INERT)
    config = dataclasses.replace(config, **changes)
    result, _ = resumed(config, federation, tmp_path / "cut")
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")
    assert json.loads((tmp_path / "cut" / "config.json").read_text())["data_dir"] == "d"


def test_candidates_are_those_of_the_run(config, federation, tmp_path):
    cut_off(config, federation, tmp_path, 2)
    (tmp_path / "candidates.npz").unlink()
    resumed(config, federation, tmp_path)
    with np.load(tmp_path / "candidates.npz") as kept:
        np.testing.assert_array_equal(kept["test_candidates"], federation.test_candidates)


def test_a_run_at_work_is_left_alone(config, federation, tmp_path):
    class Meddler(Observer):
        """Starts the same run, and goes on with it, while it is at work."""

        refused = 0

        def on_round(self, record):
            for resume in (False, True):
                with pytest.raises(UserError, match=r"process \d+ on .* is at work there"):
                    run(config, federation, (), RunDirectory(tmp_path / "run", resume))
                self.refused += 1

    meddler = Meddler()
    result = run(config, federation, [meddler], RunDirectory(tmp_path / "run"))
    assert meddler.refused == 10
    assert [line["round"] for line in lines_of(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert result.summary["resumed"] == []


def test_numbers_that_explode_leave_the_last_good_state(config, federation, tmp_path, monkeypatch):
    scores = np.zeros((6, 7, federation.num_items))
    scores[3] = np.nan
    monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores)))
    config = dataclasses.replace(config, checkpoint_every=1)
    with pytest.raises(UserError) as error:
        train.run(config, federation, (), RunDirectory(tmp_path))
    kept = tmp_path / "checkpoint" / "round-000002"
    assert "round 3: client 0" in str(error.value)
    assert str(error.value).endswith(f"The state of round 2 is kept in {kept}.")
    assert max(found(tmp_path / "checkpoint")) == 2


# --- what methods keep ----------------------------------------------------------------------------

KINDS = {
    "local-only": {},
    "fedmf": {"evaluated": "local"},
    "central-mf": {},
    "fedem": {"table_dtype": "bfloat16"},
}
"""Tables of the clients; ragged rows of their own; a server that knows the clients; everything, in
bits, with counts of rho."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_every_method_goes_on(federation, tmp_path, method):
    """On the same devices to the bit; on one in place of two, metrics to 1e-5."""
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    config = dataclasses.replace(
        config_of(method, **KINDS.get(method, {})), rounds=2, checkpoint_every=1, top_k=5
    )
    two, directory = jax.devices()[:2], RunDirectory(tmp_path / "whole")
    whole = run(config, federation, (), directory, devices=two)
    cut_off(config, federation, tmp_path / "cut", 1, devices=two)
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    result, _ = resumed(config, federation, tmp_path / "cut", two)
    assert_equal(result, whole, tmp_path / "cut", tmp_path / "whole")

    result, _ = resumed(config, federation, tmp_path / "other", jax.devices()[:1])
    assert result.layout.padded == 7 < whole.layout.padded
    assert result.summary["device"].startswith("1 x ")
    for ours, theirs in zip(result.records, whole.records, strict=True):
        for part in ("val", "test", "val_full", "test_full"):
            assert ours[part] == pytest.approx(theirs[part], abs=1e-5)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)

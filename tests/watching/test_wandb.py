"""Weights & Biases: what the offline runs say."""

import json
import struct

import pytest
from tracked import curve

import fedem_jax as fj

pytest.importorskip("wandb", reason="needs the extra wandb")
import wandb
from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768


def runs(folder):
    """The records of each offline run, the oldest run first."""
    wandb.teardown()  # the process that writes them ends
    paths = folder.glob("wandb/offline-run-*/run-*.wandb")
    return [records(path.read_bytes()) for path in sorted(paths, key=lambda p: p.stat().st_mtime)]


def records(content):
    """The records of a log, whose parts do not cross the ends of blocks."""
    found, parts, place = [], b"", 7  # after the header of the file
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def value_of(item):
    """Name and value of an item."""
    return item.key or "/".join(item.nested_key), json.loads(item.value_json)


def history(run):
    """The numbers of each step."""
    steps = [record.history for record in run if record.HasField("history")]
    return {step.step.num: dict(map(value_of, step.item)) for step in steps}


def result_of(run):
    """What the summary of a run says at last."""
    items = [item for record in run for item in record.summary.update]
    return dict(map(value_of, items))


def exit_code(run):
    (code,) = (record.exit.exit_code for record in run if record.HasField("exit"))
    return code


def test_curves_settings_and_result(tracked, tmp_path):
    result = tracked.whole(fj.WandB("mine", dir=tmp_path / "x", tags=["small"]))
    (run,) = runs(tmp_path / "x")
    steps = history(run)
    for name in ("loss", "bytes_up", "val/hr_at_3", "test_full/ndcg_at_10"):
        assert [(number, values[name]) for number, values in steps.items()] == curve(result, name)
    (about,) = (record.run for record in run if record.HasField("run"))
    assert (about.project, list(about.tags)) == ("mine", ["small"])
    assert about.display_name == "small-toy-leak-free*-seed0"
    settings = dict(map(value_of, about.config.update))
    assert settings["lr_embedding"] == tracked.config.lr_embedding
    assert settings["num_candidates"] == 6
    best = result.summary["headline"]
    assert result_of(run)["best/test/hr_at_3"] == pytest.approx(best["test"]["hr@3"])
    assert result_of(run)["best/round"] == best["round"]
    assert exit_code(run) == 0


def test_an_early_end_has_its_reason(tracked, tmp_path):
    tracked.early(fj.WandB(dir=tmp_path / "x", name="short"))
    (run,) = runs(tmp_path / "x")
    assert list(history(run)) == [1, 2]
    assert result_of(run)["ended_early"] == "enough"


def test_a_broken_run_keeps_its_rounds_and_has_failed(tracked, tmp_path):
    tracked.broken(fj.WandB(dir=tmp_path / "x"))
    (run,) = runs(tmp_path / "x")
    assert list(history(run)) == [1, 2]
    assert exit_code(run) == 1


def test_a_resumed_run_has_all_rounds(tracked, tmp_path):
    result = tracked.resumed(lambda: fj.WandB(dir=tmp_path / "x"))
    cut, whole = (history(run) for run in runs(tmp_path / "x"))
    assert list(cut) == [1, 2, 3]
    assert [(number, values["loss"]) for number, values in whole.items()] == curve(result, "loss")

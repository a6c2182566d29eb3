"""The run directory: refused when taken, written as the run goes, read back with clear errors."""

import json
import os

import numpy as np
import pytest

from fedem_jax.config import Config
from fedem_jax.errors import UserError
from fedem_jax.record import RunDirectory, check_free, first_free, read_run


def record(number: int) -> dict:
    values = {"hr@10": 0.1 * number, "ndcg@10": 0.05 * number}
    return {"round": number, "loss": np.float32(1 / number), "val": values, "test": values}


def summary(rounds: int) -> dict:
    last = {key: record(rounds)[key] for key in ("round", "val", "test")}
    return {
        "method": "fedem",
        "dataset": "synthetic",
        "protocol": "leak-free",
        "protocol_switches": {"num_candidates": 99},
        "fingerprint": "0123456789abcdef",
        "seed": 0,
        "rounds": rounds,
        "headline": last,
        "best_test": last,
        "last": last,
        "clients": 8,
        "items": 120,
        "interactions": 100,
    }


@pytest.fixture
def finished(tmp_path):
    """A run directory of three rounds."""
    path = tmp_path / "run"
    directory = RunDirectory(path)
    directory.start({"config": Config(rounds=3, adapter_widths=(4,))})
    for number in (1, 2, 3):
        directory.record(record(number))
    directory.finish(summary(3))
    return path


def test_a_finished_run_reads_back(finished):
    run = read_run(finished)
    assert run.config == Config(rounds=3, adapter_widths=(4,))
    assert [line["round"] for line in run.records] == [1, 2, 3]
    assert run.records[1]["loss"] == 0.5
    assert run.summary == summary(3)
    assert {path.name for path in finished.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
    }


def test_each_record_is_on_disk_at_once(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.start({"config": Config()})
    for number in (1, 2):
        directory.record(record(number))
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == number


def test_nothing_is_created_before_the_start(tmp_path):
    check_free(tmp_path / "a" / "run")
    RunDirectory(tmp_path / "a" / "run")
    assert not (tmp_path / "a").exists()


def test_another_run_is_refused_and_left_as_it_is(finished):
    before = (finished / "config.json").read_text()
    for refuse in (check_free, lambda path: RunDirectory(path).start({"config": Config()})):
        with pytest.raises(UserError, match=r"already holds a run.*--out"):
            refuse(finished)
    assert (finished / "config.json").read_text() == before


def test_a_folder_with_other_files_is_free(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_free(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="is a file"):
            check_free(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="nothing can be written"):
        check_free(tmp_path / "run")


def test_first_free_counts_on(finished):
    assert first_free(finished.parent / "other") == finished.parent / "other"
    assert first_free(finished) == finished.parent / "run-2"
    (finished.parent / "run-2").mkdir()
    (finished.parent / "run-2" / "config.json").write_text("{}")
    assert first_free(finished) == finished.parent / "run-3"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("metrics.jsonl", '{"round": 1}\n{"round": 2', r"metrics\.jsonl, line 2: is not JSON"),
        ("metrics.jsonl", '{"round": 1}\n3\n', r"metrics\.jsonl, line 2: is no JSON object"),
        ("metrics.jsonl", "", r"metrics\.jsonl: holds no record"),
        ("metrics.jsonl", None, r"metrics\.jsonl: is missing"),
        ("summary.json", None, r"summary\.json: is missing; the run has not finished"),
        ("summary.json", "[]", r"summary\.json: is no JSON object"),
        ("config.json", '{"runds": 3}', r"config\.json: unknown field 'runds'.*'rounds'"),
        ("config.json", None, r"config\.json: cannot be read"),
    ],
)
def test_a_broken_run_is_named(finished, name, text, sentence):
    if text is None:
        (finished / name).unlink()
    else:
        (finished / name).write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_run(finished)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        read_run(tmp_path / "absent")


def test_the_summary_is_whole_or_absent(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.start({"config": Config()})
    directory.record(record(1))
    with pytest.raises(AttributeError):
        directory.finish(summary(1) | {"device": object()})
    assert not (tmp_path / "run" / "summary.json").exists()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["round"] == 1

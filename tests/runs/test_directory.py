"""The run directory: refused when taken, written as the run goes, read back with clear errors."""

import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
from made_up import federation, made_up

from fedem_jax.config.fedem import FedEM
from fedem_jax.errors import UserError
from fedem_jax.evaluation.summary import protocol_label, shared_k
from fedem_jax.report.pictures import draw_run
from fedem_jax.runs.checks import check_free, first_free
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.reading import read_run

CONFIG = FedEM(rounds=3, adapter_widths=(4,))


def written(path, config=CONFIG):
    """A run directory, and the run that it holds."""
    run, clients = made_up(config)
    directory = RunDirectory(path, draw=draw_run)
    directory.on_start({"config": config, "federation": federation(config)})
    for record in run.records:
        directory.on_round(record)
    directory.on_end(run.summary, clients)
    return run, clients


@pytest.fixture
def finished(tmp_path):
    """A run directory of three rounds."""
    written(tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_reads_back(tmp_path):
    run, _ = written(tmp_path / "run")
    assert read_run(tmp_path / "run") == run
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "candidates.npz",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
    }


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.on_start({"config": CONFIG, "federation": federation()})
    directory.on_round({"round": np.int64(1), "loss": np.float32(0.5), "clients": np.arange(2)})
    written_ = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert written_ == {"round": 1, "loss": 0.5, "clients": [0, 1]}


def test_ranks_and_metrics_of_each_client_are_kept_on_request(tmp_path):
    _, clients = written(tmp_path / "run", FedEM(rounds=3, per_client=True, top_k=7))
    kept = pd.read_parquet(tmp_path / "run" / "per_client.parquet")
    pd.testing.assert_frame_equal(kept[list(clients)], clients)
    np.testing.assert_array_equal(kept["test_full hr@7"], clients["test_full"] <= 7)


def test_candidates_are_kept_and_need_no_pickles(tmp_path):
    data = federation()
    written(tmp_path / "run")
    with np.load(tmp_path / "run" / "candidates.npz") as kept:
        assert set(kept) == {
            "val_offsets", "val_item", "val_candidates",
            "test_offsets", "test_item", "test_candidates",
            "user_ids", "item_ids", "fingerprint",
        }  # fmt: skip
        for name in kept:
            np.testing.assert_array_equal(kept[name], getattr(data, name))


def test_each_record_is_on_disk_at_once(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.on_start({"config": CONFIG, "federation": federation()})
    for number in (1, 2):
        directory.on_round({"round": number})
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == number


@pytest.mark.parametrize(
    ("switches", "label"),
    [
        ({}, "leak-free"),
        ({"protocol": "paper"}, "paper"),
        ({"ties": "pessimistic"}, "leak-free"),
        ({"ties": "average", "num_candidates": 49}, "leak-free* (ties average, num candidates 49)"),
    ],
)
def test_the_label_of_a_protocol_names_what_departs_from_the_preset(switches, label):
    rules = FedEM(**switches).rules()
    summary = {"protocol": rules.name, "protocol_switches": dataclasses.asdict(rules)}
    assert protocol_label(summary) == label


def test_runs_are_compared_at_a_k_that_all_record():
    assert shared_k([{"top_k": 7}, {"top_k": 7}]) == 7
    assert shared_k([{"top_k": 7}, {"top_k": 20}]) == 10


def test_nothing_is_created_before_the_start(tmp_path):
    check_free(tmp_path / "a" / "run")
    RunDirectory(tmp_path / "a" / "run")
    assert not (tmp_path / "a").exists()


def test_another_run_is_refused_and_left_as_it_is(finished):
    before = (finished / "config.json").read_text()
    for refuse in (check_free, lambda path: RunDirectory(path).on_start({"config": CONFIG})):
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
        (
            "metrics.jsonl",
            '{"round": 1}',
            r"metrics\.jsonl, line 1: lacks 'coverage'; runs of earlier",
        ),
        ("summary.json", '{"method": "fedem"}', r"summary\.json: lacks 'dataset'; runs of earlier"),
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


def test_a_headline_of_an_earlier_version_is_refused(finished):
    path = finished / "summary.json"
    summary = json.loads(path.read_text())
    del summary["headline"]["interval"]
    path.write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"summary\.json: lacks 'headline\.interval'; runs of"):
        read_run(finished)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such run directory"):
        read_run(tmp_path / "absent")


def test_the_summary_is_whole_or_absent(tmp_path):
    run, clients = made_up(CONFIG)
    directory = RunDirectory(tmp_path / "run")
    directory.on_start({"config": CONFIG, "federation": federation()})
    directory.on_round(run.records[0])
    with pytest.raises(AttributeError):
        directory.on_end(run.summary | {"device": object()}, clients)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["round"] == 1

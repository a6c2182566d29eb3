"""Lists of items and parameters as files for other programs."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.config.registry import METHODS
from fedem_jax.errors import UserError
from fedem_jax.runs.export import export, parameters
from fedem_jax.runs.lists_out import write_lists
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run

LIBRARY = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.fixture(scope="module")
def result():
    """Of FedMF, whose clients keep ragged rows, on two devices; each client has many items left."""
    federation = small_federation(clients=30, items=80)
    return run(config_of("fedmf", rounds=3, top_k=5, evaluated="local"), federation)


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("round", ["best", "last"])
def test_a_trec_file_has_the_full_ndcg_of_the_summary(result, tmp_path, round):
    """By ir-measures, which reads the file; there are no equal scores, which it breaks its way."""
    ir = pytest.importorskip("ir_measures")
    lists, federation = result.recommend(k=10, round=round), result.federation
    assert not lists.duplicated(["user", "score"]).any()
    write_lists(lists, tmp_path / "recs.trec", "fedmf")
    qrels = [
        ir.Qrel(str(user), str(federation.item_ids[item]), 1)
        for user, item in zip(federation.user_ids, federation.test_item, strict=True)
    ]
    read = list(ir.read_trec_run(str(tmp_path / "recs.trec")))
    judged = ir.calc_aggregate([ir.nDCG @ 10, ir.Success @ 10], qrels, read)
    metrics = result.summary["headline" if round == "best" else "last"]["test_full"]
    assert 0 < metrics["ndcg@10"] < 1
    assert judged[ir.nDCG @ 10] == pytest.approx(metrics["ndcg@10"], abs=1e-6)
    assert judged[ir.Success @ 10] == pytest.approx(metrics["hr@10"], abs=1e-6)


def test_scores_of_a_trec_file_are_read_back_to_the_bit(result, tmp_path):
    lists = result.recommend(k=3)
    write_lists(lists, tmp_path / "recs.trec", "my run")
    lines = [line.split(" ") for line in (tmp_path / "recs.trec").read_text().splitlines()]
    assert {(line[1], line[5]) for line in lines} == {("Q0", "my-run")}
    assert [int(line[3]) for line in lines] == lists["rank"].tolist()
    scores = np.array([float(line[4]) for line in lines], np.float32)
    np.testing.assert_array_equal(scores, lists["score"].to_numpy(np.float32))


def test_csv_and_parquet_hold_the_table(result, tmp_path):
    lists = result.recommend(result.federation.user_ids[:2], k=3)
    write_lists(lists, tmp_path / "a" / "recs.csv", "")
    write_lists(lists, tmp_path / "recs.parquet", "")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "recs.parquet"), lists)
    read = pd.read_csv(tmp_path / "a" / "recs.csv", dtype={"score": np.float32})
    pd.testing.assert_frame_equal(read, lists)


def test_lists_that_a_file_cannot_hold_are_refused(tmp_path):
    lists = pd.DataFrame({"user": ["a b"], "rank": [1], "item": ["c"], "score": [0.5]})
    with pytest.raises(UserError, match=r"out: user 'a b' holds white space, .* a \.csv file"):
        write_lists(lists, tmp_path / "recs.trec", "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"recs\.xlsx ends in none of \.csv, \.parquet, \.trec"):
        write_lists(lists, tmp_path / "recs.xlsx", "x")


# --- parameters -----------------------------------------------------------------------------------


def test_exported_parameters_score_as_the_run_does(result, tmp_path):
    """From the file alone: the rows that a client moved, over the table before."""
    path = export(result, tmp_path / "model.npz")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    assert about["method"] == "fedmf"
    assert about["round"] == result.summary["headline"]["round"]
    np.testing.assert_array_equal(arrays["item_ids"], result.federation.item_ids)
    users = result.federation.user_ids
    np.testing.assert_array_equal(arrays["user_ids"], users)
    offsets, scores = arrays["clients.items.offsets"], result.scores(users).to_numpy()
    for client in range(len(users)):
        mine, table = slice(*offsets[client : client + 2]), arrays["server.before"].copy()
        table[arrays["clients.items.items"][mine]] = arrays["clients.items.table"][mine]
        expected = table @ arrays["clients.private.user"][client]
        np.testing.assert_allclose(scores[client], expected, atol=1e-5)


def test_safetensors_hold_the_same(result, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    path = export(result, tmp_path / "model.safetensors", "safetensors", "last")
    arrays, expected = load_file(path), parameters(result.simulation, result.states["last"])
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["user_ids"]) == result.federation.user_ids.tolist()
    assert json.loads(metadata["item_ids"]) == result.federation.item_ids.tolist()
    assert json.loads(metadata["about"])["round"] == 3


def test_another_format_is_refused(result, tmp_path):
    with pytest.raises(UserError, match=r"format: 'onnx' is unknown; give one of npz, safet"):
        export(result, tmp_path / "model.onnx", "onnx")


def test_the_library_page_has_every_key():
    """Of all methods, with the settings that they have by default."""
    text, federation = LIBRARY.read_text(), small_federation()
    for method, (settings, _) in METHODS.items():
        simulation = Simulation(settings(top_k=5), federation, jax.devices()[:1])
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), simulation.shapes)
        keys = parameters(simulation, state)
        section = re.search(rf"\| `{method}` \|(.*)\|", text)
        assert section, method
        named = set(re.findall(r"`((?:clients|server)\.[\w.]+)`", section[1]))
        assert {re.sub(r"Dense_\d", "Dense_n", key) for key in keys} == named, method

"""Several held-out items a client: by hand, by a library, by plain loops, and at chance."""

import jax
import numpy as np
import pandas as pd
import pytest
from made_up import made_up
from toy import Toy, permuted, small_federation, toy

import fedem_jax as fj
from fedem_jax.analysis.audit import audit
from fedem_jax.analysis.bottleneck import bottleneck
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.config.settings import LocalOnly
from fedem_jax.errors import Stopped, UserError
from fedem_jax.evaluation.exposure import exposure, gini, novelty
from fedem_jax.evaluation.metrics import (
    HeldOutRanks,
    chance_of_several,
    client_metrics,
    worst_decile,
)
from fedem_jax.evaluation.records import PARTS
from fedem_jax.report.run_tables import closing
from fedem_jax.report.terminal import Terminal
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.sweeps.stack import Stack, metrics_of

SEVERAL = {"split": "ratio", "val_share": 0.2, "test_share": 0.3}


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_of_several_items_by_hand():
    ranks = HeldOutRanks(np.array([4.0, 1.0, 2.0]), np.array([0, 3, 3]), together=True)
    found = client_metrics(ranks, [3])  # positions 1, 3 and 6
    expected = {
        "hr@3": 1, "recall@3": 2 / 3, "precision@3": 2 / 3, "mrr@3": 1, "mrr": 1,
        "ndcg@3": (1 + 0.5) / (1 + 1 / np.log2(3) + 0.5), "map@3": (1 + 2 / 3) / 3,
    }  # fmt: skip
    assert {name: value[0] for name, value in found.items()} == pytest.approx(expected)
    assert all(np.isnan(value[1]) for value in found.values())  # nothing is held out
    apart = client_metrics(ranks._replace(together=False), [3])
    assert apart["hr@3"][0] == apart["recall@3"][0] == pytest.approx(2 / 3)
    assert apart["precision@3"][0] == pytest.approx(2 / 9)
    assert apart["map@3"][0] == apart["mrr@3"][0] == pytest.approx((1 + 1 / 2) / 3)
    assert apart["mrr"][0] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_metrics_of_several_items_are_those_of_ir_measures(k):
    ir = pytest.importorskip("ir_measures")
    draw = np.random.default_rng(k)
    scores = np.stack([draw.permutation(50) for _ in range(60)])
    sizes = draw.integers(1, 12, 60)
    relevant = [draw.permutation(50)[:size] for size in sizes]
    qrels = [ir.Qrel(str(u), str(item), 1) for u, items in enumerate(relevant) for item in items]
    run = [
        ir.ScoredDoc(str(u), str(item), float(scores[u, item]))
        for u in range(60)
        for item in range(50)
    ]
    measures = {
        f"hr@{k}": ir.Success @ k, f"ndcg@{k}": ir.nDCG @ k, f"recall@{k}": ir.R @ k,
        f"precision@{k}": ir.P @ k, f"map@{k}": ir.AP @ k, f"mrr@{k}": ir.RR @ k, "mrr": ir.RR,
    }  # fmt: skip
    judged = {
        (measure.measure, measure.query_id): measure.value
        for measure in ir.iter_calc(list(measures.values()), qrels, run)
    }
    ranks = [
        1 + (np.delete(scores[u], items) > scores[u, item]).sum()
        for u, items in enumerate(relevant)
        for item in items
    ]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ours = client_metrics(HeldOutRanks(np.array(ranks), offsets, together=True), [k])
    assert set(ours) == set(measures)
    for name, measure in measures.items():
        expected = [judged[measure, str(u)] for u in range(60)]
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("n", "m", "k"), [(12, 3, 5), (9, 9, 4), (6, 1, 10), (20, 5, 10)])
def test_chance_of_several_items_is_what_random_orders_reach(n, m, k):
    draw, number = np.random.default_rng(0), 40_000
    positions = np.sort(np.argsort(draw.random((number, n)), axis=1)[:, :m] + 1, axis=1)
    ranks = (positions - np.arange(m)).ravel().astype(float)
    everyone = HeldOutRanks(ranks, np.arange(number + 1) * m, together=True)
    expected = chance_of_several(np.array([n, n]), np.array([m, 0]), k)
    for name, value in client_metrics(everyone, [k]).items():
        assert value.mean() == pytest.approx(expected[name], abs=0.01), name


def test_the_worst_decile_is_the_mean_of_the_lowest_tenth():
    assert worst_decile(np.array([*range(19, -1, -1), np.nan], float)) == 0.5
    assert worst_decile(np.array([3.0, 1.0])) == 1


def test_exposure_by_hand():
    listed = np.array([[0, 1], [0, 2], [0, 1]])
    assert gini(np.array([[0, 1], [2, 3]]), 4) == 0
    assert gini(listed, 4) == pytest.approx((-3 * 0 - 1 * 1 + 1 * 2 + 3 * 3) / (4 * 6))
    known = np.array([4, 2, 0, 1])  # item 2 counts as if one client knew it
    assert novelty(listed, known, 4) == pytest.approx((3 * 0 + 2 * 1 + 2) / 6)
    made = small_federation()
    assert set(exposure(np.zeros((7, 3), int), made)) == {"coverage", "gini", "novelty"}


# --- ranks of a federation ------------------------------------------------------------------------


def scores_of(federation, seed=0):
    """Few values, so that they tie."""
    draw = np.random.default_rng(seed)
    return draw.integers(-6, 7, (federation.num_clients, federation.num_items)) / 2


def plain_ranks(federation, scores) -> dict[str, list[float]]:
    """Ranks of all held-out items, one after the other."""
    ranks = {part: [] for part in PARTS}
    for u in range(federation.num_clients):
        left_out = set(federation.train_items(u).tolist())
        for part in ("val", "test"):
            items = federation.held_out(part, u).tolist()
            left_out |= set(items)
            first = getattr(federation, f"{part}_offsets")[u]
            for number, item in enumerate(items):
                candidates = getattr(federation, f"{part}_candidates")[first + number]
                own = scores[u, item]
                others = [i for i in range(federation.num_items) if i not in left_out]
                for name, among in ((part, candidates), (f"{part}_full", others)):
                    ranks[name].append(1 + sum(scores[u, i] >= own for i in among))
    return ranks


@pytest.mark.parametrize("split", [SEVERAL, {"split": "time", "test_share": 0.3}])
@pytest.mark.parametrize(("devices", "block"), [(1, 1), (1, 3), (2, 2)])
def test_ranks_of_several_items_equal_a_plain_loop(monkeypatch, split, devices, block):
    federation = small_federation(**split)
    scores = scores_of(federation)
    monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores[None])))
    config = Toy(block_size=block, top_k=3, rounds=1)
    result = fj.run(config, federation, devices=jax.devices()[:devices])
    expected = plain_ranks(federation, scores)
    reference = fj.evaluate(federation, scores, 3)
    for part in PARTS:
        found = np.concatenate(result.per_client[part].tolist())
        np.testing.assert_array_equal(found, expected[part], err_msg=part)
        assert result.records[0][part] == pytest.approx(reference[part])
    summary = result.summary
    assert summary["evaluated"]["test"] == (np.diff(federation.test_offsets) > 0).sum()
    assert set(summary["chance"]["test_full"]) == set(summary["worst_decile"]["test"])
    low, high = summary["headline"]["interval"]["test_full"]["recall@3"]
    assert low <= reference["test_full"]["recall@3"] <= high


def test_the_order_of_clients_changes_no_metric():
    federation = small_federation(**SEVERAL)
    scores, order = scores_of(federation), np.random.default_rng(1).permutation(7)
    reordered = permuted(federation, order)
    for part, metrics in fj.evaluate(federation, scores, 3).items():
        assert fj.evaluate(reordered, scores[order], 3)[part] == pytest.approx(metrics)


@pytest.mark.slow
def test_stacked_trials_report_the_metrics_of_single_runs():
    federations = {seed: small_federation(**SEVERAL, split_seed=seed) for seed in (0, 1)}
    configs = [LocalOnly(seed=seed, top_k=3, rounds=2, dim=2, local_epochs=1) for seed in (0, 1)]
    report, _ = Stack(configs[0], federations, width=2, chunk=2).run(configs, [1, 2])
    for place, config in enumerate(configs):
        federation = federations[config.seed]
        records = fj.run(config, federation).records
        for name, values in metrics_of(report.counts[place], federation, 3).items():
            part, metric = name.split()
            assert values == pytest.approx([record[part][metric] for record in records]), name


def test_a_run_with_several_items_resumes_and_is_shown(monkeypatch, tmp_path):
    federation = small_federation(**SEVERAL)
    monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores_of(federation)[None])))
    config = Toy(rounds=2, top_k=3, checkpoint_every=1, per_client=True)
    whole = fj.run(config, federation)
    with pytest.raises(Stopped):
        fj.run(config, federation, directory=RunDirectory(tmp_path / "x", say=str),
               stop=iter([0, 2]).__next__)  # fmt: skip
    directory = RunDirectory(tmp_path / "x", resume=True, say=str)
    resumed = fj.run(config, federation, directory=directory)
    assert resumed.summary["headline"] == whole.summary["headline"]
    table = pd.read_parquet(tmp_path / "x" / "per_client.parquet")
    assert table["test"].map(len).tolist() == np.diff(federation.test_offsets).tolist()
    assert "test_full recall@3" in table
    terminal = Terminal(width=100, record=True)
    terminal.print(closing(resumed.summary))
    text = terminal.export_text()
    assert "All test items of a client in one list" in text
    assert "Precision@3" in text
    assert "worst decile" in text


# --- what looks at held-out items -----------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "spared"), [("leak-free", 0), ("paper", 14)])
@pytest.mark.slow
def test_an_audit_looks_at_the_latest_item_of_each_client(protocol, spared):
    federation = small_federation(protocol, **SEVERAL)
    found = audit(LocalOnly(rounds=2, eval_every=2, top_k=3, dim=2), federation)
    assert found.val.local.total == found.test.local.total == 7
    assert found.val.spared.count + found.test.spared.count == spared
    assert found.coinciding == 0


def test_a_bottleneck_study_asks_for_one_item_each():
    with pytest.raises(UserError, match=r"split: a bottleneck study .*split=leave-one-out"):
        bottleneck(FedEM(), small_federation(**SEVERAL))


def test_held_out_ranks_of_one_item_each_keep_their_metrics():
    run, clients = made_up(FedEM(rounds=2))
    assert set(run.summary["headline"]["test"]) == {
        *(f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)), "mrr",
    }  # fmt: skip
    assert clients["test"].dtype == float

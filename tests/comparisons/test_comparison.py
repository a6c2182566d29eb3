"""Comparisons: what is run and what is not run again, the tables against made-up runs by hand, and
one small comparison in earnest."""

import copy
import csv
import dataclasses
import functools
import itertools
import json
import subprocess
import sys
import types
import zlib

import numpy as np
import pandas as pd
import pytest
from made_up import federation, made_up
from pictures import bars, key, said, ticks

from fedem_jax.cli import main as cli
from fedem_jax.comparisons.opened import open_comparison
from fedem_jax.comparisons.plan import PlannedRun, plan_comparison
from fedem_jax.comparisons.progress import time_left
from fedem_jax.comparisons.results import MethodRuns
from fedem_jax.comparisons.run import missing
from fedem_jax.comparisons.standings import PUBLISHED, published, standings
from fedem_jax.comparisons.tables import _results
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.references import Popularity
from fedem_jax.config.registry import METHODS
from fedem_jax.config.settings import CentralMF, FedMF, PFedRec
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.evaluation.popularity import popularity
from fedem_jax.evaluation.statistics import holm
from fedem_jax.evaluation.summary import with_metrics
from fedem_jax.units import in_bytes, in_words

METRICS = [(part, name) for part in ("test", "test_full") for name in ("hr@10", "ndcg@10")]


def outcome_of(config) -> tuple[dict, pd.DataFrame, list]:
    """Summary, ranks and records of a made-up run whose numbers depend on method and seed."""
    return copy.deepcopy(made_up_once(config))


@functools.cache
def made_up_once(config) -> tuple[dict, pd.DataFrame, list]:
    disguise = FedEM(
        **{
            name: getattr(config, name)
            for name in ("rounds", "protocol", "ties", "top_k", "dataset", "per_client")
        },
        seed=config.seed + 1000 * (zlib.crc32(config.method.encode()) % 1000),
    )
    run, clients = made_up(disguise)
    summary = run.summary | {"method": config.method, "seed": config.seed}
    return summary, clients, run.records


class Fake:
    """Stands for `fedem_jax.runs.train`."""

    def __init__(self):
        self.begun = []
        self.failing, self.killed_at = "", None

    def run(self, config, data, observers, directory, stop):
        observers = [directory, *observers]
        self.begun.append((config.method, config.seed))
        setting = {"config": config, "federation": data}
        summary, clients, records = outcome_of(config)
        for observer in observers:
            observer.on_start(setting)
        for number, record in enumerate(records):
            for observer in observers:
                observer.on_round(record)
            if (config.method, config.seed, number) == self.killed_at:
                raise KeyboardInterrupt
        if config.method == self.failing and config.seed == 1:
            raise UserError("round 3: scores are not finite; a smaller lr usually helps.")
        for observer in observers:
            observer.on_end(summary, clients)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> Fake:
    """`fedem compare` with made-up runs, in an empty working directory."""
    fake, module = Fake(), types.ModuleType("fedem_jax.runs.train")
    module.__dict__["run"] = fake.run
    monkeypatch.setitem(sys.modules, "fedem_jax.runs.train", module)
    monkeypatch.setattr("fedem_jax.data.sources.federation_of", lambda *_: federation())
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.setattr("fedem_jax.report.pictures.draw_curves", lambda *_: None)
    monkeypatch.setattr("fedem_jax.comparisons.tables.can_draw", lambda: False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return fake


def compare(*args: str) -> None:
    cli.main(["compare", "--rounds", "4", "--out", "c", *args])


THREE = ("--methods", "fedem", "fedmf", "pfedrec:evaluated=global", "--seeds", "3")
CONFIGS = {
    "fedem": FedEM(rounds=4),
    "fedmf": FedMF(rounds=4),
    "pfedrec:evaluated=global": PFedRec(rounds=4),
}


def by_seed(name: str, of: str = "headline", protocol: str = "leak-free") -> list[dict]:
    config = dataclasses.replace(CONFIGS[name], protocol=protocol)
    return [outcome_of(dataclasses.replace(config, seed=seed))[0][of] for seed in range(3)]


def client_means(name: str, part: str, metric: str) -> np.ndarray:
    """By hand from the ranks: each client's metric, averaged over the seeds."""
    every = []
    for seed in range(3):
        rank = outcome_of(dataclasses.replace(CONFIGS[name], seed=seed))[1][part].to_numpy()
        hit = rank <= 10
        every.append(hit * 1.0 if metric == "hr@10" else hit / np.log2(1 + rank))
    return np.mean(every, axis=0)


def table(path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_the_tables_hold_what_the_runs_say(fake, tmp_path, capsys, pictures):
    compare(*THREE)
    shown = capsys.readouterr().out
    assert fake.begun == [(m, s) for s in range(3) for m in ("fedem", "fedmf", "pfedrec")]
    assert max(map(len, shown.splitlines())) <= 80
    document = (tmp_path / "c" / "table.md").read_text()
    command = "fedem compare --rounds 4 --out c " + " ".join(THREE)
    assert f"`{command}`" in document
    rows = table(tmp_path / "c" / "table.csv")
    assert list(rows) == list(CONFIGS)
    rivals = list(CONFIGS)[1:]
    best = {metric: max(CONFIGS, key=lambda n: mean_of(n, metric)) for metric in METRICS}
    for metric in METRICS:
        gaps = [client_means(name, *metric) - client_means("fedem", *metric) for name in rivals]
        p = np.array([exact_p(gap) for gap in gaps])
        column = " ".join(metric)
        for name in CONFIGS:
            values = [headline[metric[0]][metric[1]] for headline in by_seed(name)]
            row = rows[name]
            assert float(row[f"{column} mean"]) == pytest.approx(np.mean(values))
            assert float(row[f"{column} sd"]) == pytest.approx(np.std(values, ddof=1))
            mean, sd = f"{np.mean(values):.4f}", f"± {np.std(values, ddof=1):.4f}"
            if best[metric] == name:
                assert f"**{mean}** {sd}" in document
                assert f"*{mean}" in shown
            else:
                assert f"| {mean} {sd} |" in document
        for name, gap, one, all_ in zip(rivals, gaps, p, holm(p), strict=True):
            row = rows[name]
            assert float(row[f"{column} difference"]) == pytest.approx(gap.mean())
            assert float(row[f"{column} p"]) == pytest.approx(one, abs=0.015)
            assert float(row[f"{column} p_holm"]) == pytest.approx(all_, abs=0.03)
            assert f"{gap.mean():+.4f} p=" in document
        assert rows["fedem"][f"{column} difference"] == ""
    for row in rows.values():
        costs = [row[f"{name}_per_round"] for name in ("bytes_up", "bytes_down", "seconds")]
        assert [float(cost) for cost in costs] == [10, 20_000, 0.02]
    assert "| fedmf | 4 | 10 B | 20 kB | 20 ms |" in document
    assert "| chance |  | 0.1000 |" in document
    levels = [popularity(federation(), 10)[part][name] for part, name in METRICS]
    cells = " | ".join(f"{level:.4f} ± 0.0000" for level in levels)  # the same split for all seeds
    assert f"| popularity |  | {cells} |" in document
    figure = pictures["comparison.png"]
    title, caption = said(figure)
    assert title == "synthetic, protocol leak-free"
    assert caption == (
        "test metrics at the best validation round · protocol leak-free · 8 clients · 120 items · "
        "99 sampled candidates · 3 seeds"
    )
    legend = ["single seed", "differs from fedem", "difference in doubt", "fedem", "chance"]
    assert list(key(figure.legends[0])) == legend
    names = ticks(figure.axes[0].yaxis)
    assert set(names.values()) == set(CONFIGS)
    means = [mean_of(names[row], METRICS[0]) for row in sorted(names)]
    assert means == sorted(means)  # the best is on top
    for panel, metric in zip(figure.axes, METRICS, strict=True):
        assert panel.get_title(loc="left") == (
            f"{metric[1].upper()}, {'sampled' if metric[0] == 'test' else 'all items'}"
        )
        for bar in bars(panel, sideways=True):
            assert bar.x == pytest.approx([mean_of(names[bar.y[0]], metric)])
        doubt = {names[bar.y[0]]: bar.hollow for bar in bars(panel, sideways=True)}
        assert doubt == {
            name: name != "fedem" and float(rows[name][f"{' '.join(metric)} p_holm"]) >= 0.05
            for name in CONFIGS
        }
    assert "Best test value" not in document


@pytest.mark.parametrize("installed", [True, False])
def test_a_report_is_written_where_its_library_is(fake, tmp_path, capsys, monkeypatch, installed):
    monkeypatch.setattr("fedem_jax.comparisons.tables.can_draw", lambda: installed)
    compare("--methods", "fedem", "fedmf", "--seeds", "1")
    assert (tmp_path / "c" / "report.html").exists() == installed
    assert ("report.html" in capsys.readouterr().out) == installed


def test_differences_are_taken_to_fedem_wherever_it_stands(fake, tmp_path, capsys):
    names = ["fedmf", "fedem", "pfedrec:evaluated=global"]
    compare("--methods", *names, "--seeds", "3")
    rows, document = table(tmp_path / "c" / "table.csv"), (tmp_path / "c" / "table.md").read_text()
    assert list(rows) == names
    for metric in METRICS:
        column = f"{' '.join(metric)} difference"
        assert rows["fedem"][column] == ""
        for name in ("fedmf", "pfedrec:evaluated=global"):
            gap = client_means(name, *metric) - client_means("fedem", *metric)
            assert abs(gap.mean()) > 1e-3
            assert float(rows[name][column]) == pytest.approx(gap.mean())
    section = document[document.index("## Difference to fedem\n") : document.index("## Published")]
    named = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    assert named == ["| method", "| ---", "| fedmf", "| pfedrec:evaluated=global"]
    assert "Difference to fedem" in capsys.readouterr().out


def test_the_reference_is_the_first_fedem_that_did_not_fail():
    def runs_of(name, hits, failed=""):
        """Of 4 clients, whose metrics are all 1 for the first `hits` and 0 for the others."""
        config = FedMF() if name == "fedmf" else FedEM()
        if failed:
            return MethodRuns(name, config, failed)
        summary, *_ = outcome_of(FedEM(rounds=2))
        values = (np.arange(4) < hits).astype(float)
        clients = pd.DataFrame({" ".join(metric): values for metric in METRICS})
        return MethodRuns(name, config, "", [summary], [clients])

    reference, summaries = standings([
        runs_of("fedmf", 1), runs_of("fedem", 0, failed="memory"), runs_of("fedem:dim=8", 3),
        runs_of("fedem:dim=4", 4),
    ])  # fmt: skip
    assert reference == "fedem:dim=8"
    against = {
        summary.name: {metric: difference.value for metric, difference in summary.against.items()}
        for summary in summaries
    }
    assert against == {
        "fedmf": dict.fromkeys(METRICS, -0.5), "fedem": {}, "fedem:dim=8": {},
        "fedem:dim=4": dict.fromkeys(METRICS, 0.25),
    }  # fmt: skip


def exact_p(gap: np.ndarray) -> float:
    """Over all signs of eight clients."""
    flips = np.array(list(itertools.product([-1, 1], repeat=8))) @ gap
    return float((np.abs(flips) >= abs(gap.sum()) - 1e-12).mean())


def mean_of(name: str, metric: tuple[str, str]) -> float:
    return float(np.mean([headline[metric[0]][metric[1]] for headline in by_seed(name)]))


def test_the_published_selection_stands_beside_under_its_own_name(fake, tmp_path, capsys):
    compare(*THREE, "--protocol", "paper")
    document = (tmp_path / "c" / "table.md").read_text()
    below = document[document.index("## Best test value") :]
    values = [best["test"]["hr@10"] for best in by_seed("fedmf", "best_test", "paper")]
    assert f"{np.mean(values):.4f}" in below.split("##")[1]
    row = table(tmp_path / "c" / "table.csv")["fedmf"]
    assert float(row["best_test: test hr@10 mean"]) == pytest.approx(np.mean(values))
    assert "Best test value" in capsys.readouterr().out


def test_a_killed_comparison_goes_on(fake, tmp_path, capsys):
    compare(*THREE)
    whole = (tmp_path / "c" / "table.csv").read_bytes()
    (tmp_path / "c").rename(tmp_path / "whole")
    fake.begun.clear()
    fake.killed_at = ("fedmf", 1, 2)
    with pytest.raises(SystemExit) as exit_:
        compare(*THREE)
    assert exit_.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    done, fake.killed_at = fake.begun[:-1], None
    assert done == [("fedem", 0), ("fedmf", 0), ("pfedrec", 0), ("fedem", 1)]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*/summary.json")}
    assert len(files) == len(done)

    fake.begun.clear()
    compare(*THREE)
    assert fake.begun[0] == ("fedmf", 1)
    assert not set(fake.begun) & set(done)
    assert len(fake.begun) == 5
    said = capsys.readouterr().out
    assert said.count("was cut off, starts anew") == 1
    assert "c/fedmf-seed1: was cut off, starts anew" in said
    assert "9 runs, 4 of them finished" in said
    assert (tmp_path / "c" / "table.csv").read_bytes() == whole
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert len((tmp_path / "c" / "fedmf-seed1" / "metrics.jsonl").read_text().splitlines()) == 4

    fake.begun.clear()
    compare(*THREE)
    assert fake.begun == []
    assert (tmp_path / "c" / "table.csv").read_bytes() == whole


@pytest.mark.parametrize("sound", [True, False])
def test_a_run_with_a_checkpoint_goes_on(fake, tmp_path, capsys, sound):
    """Under its own size classes, which its checkpoint depends on; one that cannot go on starts
    anew, and says why."""
    compare("--methods", "fedem", "--seeds", "1")
    folder = tmp_path / "c" / "fedem-seed0"
    (folder / "summary.json").unlink()
    (folder / "checkpoint" / "round-000002").mkdir(parents=True)
    how = []

    def run(config, data, observers, directory, stop):
        how.append((directory.resume, config.size_classes))
        if directory.resume and not sound:
            raise CannotResume("c/fedem-seed0/checkpoint: every checkpoint is damaged.")
        directory.rewind(0)
        fake.run(config, data, observers, directory, stop)

    sys.modules["fedem_jax.runs.train"].__dict__["run"] = run
    compare("--methods", "fedem", "--seeds", "1", "--settings", "size_classes=2")
    assert how == ([(True, 0)] if sound else [(True, 0), (False, 2)])
    assert (folder / "checkpoint").exists() == sound  # what cannot go on is removed
    said = capsys.readouterr().out
    assert ("every checkpoint is damaged" in said) == (not sound)
    assert ("was cut off, starts anew" in said) == (not sound)


def test_what_is_cut_off_in_its_first_file_starts_anew(fake, tmp_path):
    remains = tmp_path / "c" / "fedem-seed0"
    remains.mkdir(parents=True)
    (remains / "config.json").write_text('{"dataset": "syn')
    (remains / "mine.txt").write_text("kept")
    compare("--methods", "fedem", "--seeds", "1")
    assert fake.begun == [("fedem", 0)]
    assert (remains / "mine.txt").read_text() == "kept"


def test_more_methods_and_seeds_are_added_to_what_is_there(fake):
    compare("--methods", "fedem", "--seeds", "1")
    compare("--methods", "fedem", "fedmf", "--seeds", "2")
    assert sorted(fake.begun) == [("fedem", 0), ("fedem", 1), ("fedmf", 0), ("fedmf", 1)]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_with_other_settings_is_refused_with_the_difference(fake, tmp_path, capsys, finished):
    compare("--methods", "fedem", "--seeds", "1")
    if not finished:
        (tmp_path / "c" / "fedem-seed0" / "summary.json").unlink()
    fake.begun.clear()
    with pytest.raises(SystemExit) as exit_:
        compare("--methods", "fedmf", "fedem", "--seeds", "1", "--settings", "dim=4", "top_k=5")
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "c/fedem-seed0: holds a run with other settings (dim 8, now 4; top_k 10, now 5)" in said
    assert fake.begun == []


def test_what_changes_no_result_is_no_difference(fake):
    compare("--methods", "fedem", "--seeds", "1")
    compare("--methods", "fedem", "--seeds", "1", "--settings", "block_size=3", "size_classes=2")
    assert fake.begun == [("fedem", 0)]


@pytest.mark.parametrize("changed", ["fingerprint", "user"])
def test_data_that_changed_in_between_are_refused(fake, tmp_path, capsys, changed):
    compare(*THREE)
    folder = tmp_path / "c" / "fedmf-seed2"
    if changed == "fingerprint":
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"fingerprint": "other"}))
    else:
        clients = pd.read_parquet(folder / "per_client.parquet")
        clients.iloc[::-1].to_parquet(folder / "per_client.parquet")
    with pytest.raises(SystemExit):
        compare(*THREE)
    assert "c/fedmf-seed2: rests on other data" in capsys.readouterr().err


def test_a_method_that_fails_is_a_line_that_says_why(fake, tmp_path, capsys):
    fake.failing = "fedmf"
    compare(*THREE)
    assert ("pfedrec", 2) in fake.begun
    assert ("fedmf", 2) not in fake.begun
    reason = "round 3: scores are not finite; a smaller lr usually helps (seed 1)."
    document = (tmp_path / "c" / "table.md").read_text()
    assert "| fedmf |  | failed | - | - | - |" in document
    assert f"fedmf failed: {reason}" in document
    rows = table(tmp_path / "c" / "table.csv")
    assert rows["fedmf"]["failed"] == reason
    assert rows["fedmf"]["test hr@10 mean"] == ""
    one = rows["pfedrec:evaluated=global"]
    assert one["test hr@10 p_holm"] == one["test hr@10 p"]  # corrected for one method, not two
    assert "5/8 fedmf seed 1: failed" in capsys.readouterr().out


def test_quiet_shows_warnings_alone(fake, tmp_path, capsys):
    compare("--quiet", "--seeds", "2", "--methods", "fedem")
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "c" / "table.md").exists()
    fake.failing = "fedmf"
    compare("--quiet", "--seeds", "2", "--methods", "fedem", "fedmf", "fcf:batch_size=8")
    out, err = capsys.readouterr()
    assert out == ""
    idle, failed = err.splitlines()
    assert idle == "batch_size: without effect on fcf:batch_size=8 with these settings."
    assert "/4 fedmf seed 1: failed; round 3: scores are not finite" in failed


def test_json_is_one_object_and_nothing_else(fake, tmp_path, capsys):
    fake.failing = "fedmf"
    compare(*THREE, "--json", "--reach", "0.01")
    out, err = capsys.readouterr()
    assert "Costs" in err
    found = json.loads(out, parse_constant=pytest.fail)
    rows = {row["method"]: row for row in found.pop("methods")}
    data = federation()
    assert found == {
        "directory": "c", "dataset": "synthetic", "protocol": "leak-free",
        "clients": data.num_clients, "items": data.num_items, "reference": "fedem",
    }  # fmt: skip
    assert list(rows["fedmf"]) == ["method", "failed"]
    assert rows["fedem"].pop("rounds_to_reach") >= 1
    written = table(tmp_path / "c" / "table.csv")["fedem"]
    assert {name: str(value) for name, value in rows["fedem"].items()} == {
        name: value for name, value in written.items() if name in rows["fedem"]
    }
    compare("--methods", "fedem", "--seeds", "1", "--json", "--quiet")  # has finished
    out, err = capsys.readouterr()
    assert err == ""
    (row,) = json.loads(out, parse_constant=pytest.fail)["methods"]
    assert row["test hr@10 sd"] is None  # of a single seed


def test_nothing_but_failures_is_an_error(fake, capsys):
    fake.failing = "fedmf"
    with pytest.raises(SystemExit) as exit_:
        compare("--methods", "fedmf", "--seeds", "2")
    assert exit_.value.code == 2
    assert "no method could run; fedmf: round 3" in capsys.readouterr().err


def test_a_method_without_the_preset_is_a_line_that_says_so(fake, tmp_path):
    compare("--methods", "fedem", "fedmf", "--seeds", "1", "--preset", "tuned")
    document = (tmp_path / "c" / "table.md").read_text()
    assert "fedmf failed: preset: fedmf on synthetic has no tuned settings" in document
    config = json.loads((tmp_path / "c" / "fedem-seed0" / "config.json").read_text())
    assert (config["aggregation"], config["rounds"]) == ("cohort", 4)


def test_a_label_stands_for_a_method_with_its_settings(fake, tmp_path):
    methods = ("fedem", "narrow=fedmf:dim=4")
    compare("--methods", *methods, "--seeds", "2")
    folder = tmp_path / "c"
    config = json.loads((folder / "narrow-seed1" / "config.json").read_text())
    assert (config["method"], config["dim"], config["seed"]) == ("fedmf", 4, 1)
    rows = csv.DictReader((folder / "table.csv").read_text().splitlines())
    assert [row["method"] for row in rows] == ["fedem", "narrow"]
    document = (folder / "table.md").read_text()
    assert "| narrow |" in document
    assert "--methods fedem narrow=fedmf:dim=4" in document  # what the label stands for
    _, narrow = open_comparison(folder)
    assert (narrow.name, narrow.config.method, narrow.config.dim) == ("narrow", "fedmf", 4)
    begun = len(fake.begun)
    compare("--methods", *methods, "--seeds", "2")
    assert len(fake.begun) == begun


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--methods", "fedmff"], "method: 'fedmff' is unknown; did you mean 'fedmf'?"),
        (["--methods", "fedem:mergin=once"], "fedem:mergin=once: setting 'mergin' is unknown"),
        (["--methods", "fedem:dim=wide"], "dim: 'wide' is no integer"),
        (["--methods", "fedem:dim=0"], "fedem:dim=0: dim: 0 is out of range"),
        (["--methods", "fedem:dim"], "'dim' sets nothing; write FIELD=VALUE"),
        (["--methods", "fedem", "fcf=fedmf"], "fcf=fedmf: 'fcf' is no label; write LABEL=NAME"),
        (["--methods", "a b=fedmf"], "a b=fedmf: 'a b' is no label"),
        (["--methods", "a=fedmf", "a=fcf"], "methods: 2 have the label 'a'; give each its own"),
        (["--methods", "a=fedmff"], "method: 'fedmff' is unknown; did you mean 'fedmf'?"),
        (["--methods", "fedem", "fedmf:ties=average"], "'ties' is chosen for all methods"),
        (["--methods", "fedem", "fedmf:order=random"], "'order' is chosen for all methods"),
        (["--settings", "seed=3"], "'seed' is chosen for all methods"),
        (["--settings", "lr=3"], "setting 'lr' is unknown"),
        (["--protocol", "papr"], "error: protocol: 'papr' is unknown; did you mean 'paper'?"),
        (["--preset", "tund"], "preset: 'tund' is unknown; did you mean 'tuned'?"),
        (["--seeds", "0"], "seeds: 0 is out of range"),
        (["--dataset", "ml100k"], "unknown data set 'ml100k': did you mean 'ml-100k'?"),
        (["--methods", "fedmf", "--preset", "tuned"], "fedmf on synthetic has no tuned settings"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    late = "the mistake came too late"
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: pytest.fail(late))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["compare", *args])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_before_jax_is_imported(tmp_path):
    (tmp_path / "c" / "fedem-seed0").mkdir(parents=True)
    (tmp_path / "c" / "fedem-seed0" / "config.json").write_text('{"rounds": 7}')
    script = (
        "import sys; from fedem_jax.cli.main import main\n"
        "for args in ('--dataset ml100k', '--methods x', '--rounds 5 --out c'):\n"
        "    try: main(['compare', *args.split()])\n"
        "    except SystemExit as exit: assert exit.code == 2\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, cwd=tmp_path, text=True
    )
    assert done.stderr.count("error: ") == 3
    assert "c/fedem-seed0: holds a run with other settings (rounds 7, now 5; " in done.stderr


def test_all_methods_and_the_variant_are_the_default():
    names = [contender.name for contender in plan_comparison().contenders]
    assert [name for name in names if ":" not in name] == list(METHODS)
    assert [name for name in names if ":" in name] == ["pfedrec:evaluated=global"]


def test_settings_of_presets_of_all_and_of_one():
    made = plan_comparison(
        ["fedem:merging=0.5:adapter-widths=8,4:rounds=9", "fedmf"],
        rounds=3, settings=["dim=8", "columns=who,what"], data_dir="d", protocol="paper",
    )  # fmt: skip
    fedem, fedmf = (contender.config for contender in made.contenders)
    assert isinstance(fedem, FedEM)
    assert (fedem.merging, fedem.adapter_widths, fedem.rounds) == ("0.5", (8, 4), 9)
    assert fedem.aggregation == "both"  # released: auto under a protocol with a leak
    (tuned,) = plan_comparison(["fedem"], rounds=3).contenders
    assert tuned.config.aggregation != "both"  # tuned: auto under leak-free
    assert fedmf.rounds == 3
    for config in (fedem, fedmf):
        assert (config.dim, config.columns, config.data_dir) == (8, ("who", "what"), "d")
        assert (config.protocol, config.per_client) == ("paper", True)
    assert str(made.directory) == "results/compare-synthetic-paper"
    paths = [run.path.name for run in missing(made)]
    assert paths[1::2] == [f"fedmf-seed{seed}" for seed in range(5)]
    assert paths[0] == "fedem-merging=0.5-adapter-widths=8-4-rounds=9-seed0"


def test_references_with_a_closed_form_keep_their_single_round():
    made = plan_comparison(["popularity", "ease:l2=50", "item-knn:rounds=3", "fedmf"], rounds=30)
    assert [contender.config.rounds for contender in made.contenders] == [1, 1, 3, 30]


def test_the_centralised_reference_is_never_the_best():
    def runs_of(config, shift):
        summary, clients, _ = outcome_of(FedEM(rounds=2))
        headline = summary["headline"]
        for part in ("test", "test_full"):
            headline[part] = dict.fromkeys(headline[part], shift)
        return MethodRuns(config.method, config, "", [summary], [with_metrics(clients, 10)])

    runs = [runs_of(CentralMF(), 0.9), runs_of(FedMF(), 0.5), runs_of(FedEM(), 0.5)]
    reference, summaries = standings(runs)
    assert reference == "fedem"
    rows = {row.cells[0]: row.cells[2:] for row in _results(runs[0].summaries[0], summaries).rows}
    assert [cell.best for cell in rows["central-mf"]] == [False] * 4
    assert [cell.best for cell in rows["fedmf"]] == [True] * 4
    assert [cell.best for cell in rows["fedem"]] == [True] * 4


def test_popularity_has_a_single_line():
    """Its own, if it is compared; none, if a run of an earlier version lacks its level."""

    def lines(*configs, without=()):
        runs = []
        for config in configs:
            summary, clients, _ = outcome_of(config)
            kept = {name: value for name, value in summary.items() if name not in without}
            runs.append(MethodRuns(config.method, config, "", [kept], [with_metrics(clients, 10)]))
        _, summaries = standings(runs)
        rows = _results(runs[0].summaries[0], summaries).rows
        return [row.cells for row in rows if row.cells[0] == "popularity"]

    (line,) = lines(FedMF(rounds=2))
    assert line[1] == ""
    (own,) = lines(FedMF(rounds=2), Popularity())
    assert own[1] == "1"
    assert lines(FedMF(rounds=2), without=("popularity",)) == []


def test_published_numbers_stand_beside_those_of_their_protocol_alone(fake, tmp_path, capsys):
    args = ("--methods", "fedem", "pfedrec", "pfedrec:evaluated=global", "--seeds", "1")
    for protocol, settings, stands in (
        ("paper-p", (), True),
        ("paper-p", ("--settings", "ties=average"), False),
        ("paper", (), False),
        ("leak-free", (), False),
    ):
        out = f"{protocol}{len(settings)}"
        compare(*args, "--dataset", "ml-100k", "--protocol", protocol, *settings, "--out", out)
        document = (tmp_path / out / "table.md").read_text()
        section = document[document.index("## Published") : document.index("## Costs")]
        assert ("| pfedrec [1] | 0.7162 | 0.4344 |" in section) == stands
        assert "global" not in section
        if protocol == "paper-p" and stands:
            ours = outcome_of(PFedRec(rounds=4, protocol=protocol, dataset="ml-100k"))[0][
                "headline"
            ]
            assert f"| 0.4344 | {ours['test']['hr@10']:.4f} |" in section
            assert "[1] Zhang et al., IJCAI 2023 (PFedRec); 99 candidates; " in section
            assert "4 rounds here" in section
        elif protocol == "paper":
            best = outcome_of(FedEM(rounds=4, protocol=protocol, dataset="ml-100k"))[0]["best_test"]
            assert f"| 0.9799 | 0.8910 | {best['test']['hr@10']:.4f} |" in section
        else:
            assert (
                "fedem_jax/comparisons/published.csv has none of ml-100k under protocol" in section
            )


def test_the_list_of_published_numbers_is_sound():
    with PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["protocol"] for row in rows} == {"paper", "paper-p"}
    assert {row["candidates"] for row in rows} == {"99", "all"}
    for row in rows:
        assert row["source"]
        values = [row[name].split(" to ") for name in ("hr@10", "ndcg@10") if row[name]]
        assert all(0 < float(part) < 1 for value in values for part in value)
    known = {(row["dataset"], row["method"], row["protocol"]) for row in rows}
    assert ("ml-100k", "pfedrec", "paper-p") in known
    assert published("ml-100k", "leak-free") == []
    assert published("ml-100k", "paper-p", PUBLISHED.with_name("absent.csv")) == []


def test_time_left_is_that_of_the_runs_ahead(tmp_path):
    runs = [
        PlannedRun("a", FedEM(rounds=10), tmp_path),
        PlannedRun("b", FedEM(rounds=20), tmp_path),
        PlannedRun("c", FedEM(rounds=5), tmp_path),
    ]
    assert time_left(runs, {}) == 0
    assert time_left(runs, {"a": 1.0, "b": 3.0}) == 10 * 1 + 20 * 3 + 5 * 2  # c at their mean
    assert [in_words(seconds) for seconds in (0.4, 12, 200, 3900, 7500)] == [
        "0 s", "12 s", "3 min", "65 min", "2 h 05 min"
    ]  # fmt: skip


@pytest.fixture
def ratings(tmp_path):
    """Twenty users in two groups of taste, each with twelve of the twenty items of its group."""
    draw = np.random.default_rng(0)
    rows = [
        f"{user},{20 * (user % 2) + item},1,{time}"
        for user in range(20)
        for time, item in enumerate(draw.permutation(20)[:12])
    ]
    path = tmp_path / "mine.csv"
    path.write_text("who,what,stars,when\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_in_earnest(ratings, tmp_path, capsys, monkeypatch, pictures):
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    out = tmp_path / "c"
    args = [
        "compare",
        "--dataset",
        str(ratings),
        "--seeds",
        "1",
        "--rounds",
        "2",
        "--out",
        str(out),
    ]
    args += ["--methods", "pfedrec", "pfedrec:evaluated=global", "--settings", "dim=4"]
    args += ["eval_every=2", "size_classes=1", "num_candidates=10", "columns=who,what,stars,when"]
    cli.main(args)
    rows = table(out / "table.csv")
    for name, row in rows.items():
        folder = out / f"{name.replace(':', '-')}-seed0"
        clients = pd.read_parquet(folder / "per_client.parquet")
        assert len(clients) == 20
        for part, metric in METRICS:
            assert float(row[f"{part} {metric} mean"]) == pytest.approx(
                clients[f"{part} {metric}"].mean()
            )
        assert float(row["bytes_up_per_round"]) == 20 * 40 * 4 * 4
    assert "Difference" not in (out / "table.md").read_text()  # no FedEM to hold them against
    figure = pictures["comparison.png"]
    shown = ticks(figure.axes[0].yaxis)
    for panel, metric in zip(figure.axes, METRICS, strict=True):
        values = {shown[bar.y[0]]: bar.x[0] for bar in bars(panel, sideways=True)}
        assert values == pytest.approx(
            {name: float(row[f"{' '.join(metric)} mean"]) for name, row in rows.items()}
        )
    capsys.readouterr()
    (out / "pfedrec-seed0" / "summary.json").unlink()
    cli.main(args)
    assert "2 runs, 1 of them finished" in capsys.readouterr().out
    assert without_seconds(table(out / "table.csv")) == without_seconds(rows)


def without_seconds(rows: dict) -> dict:
    return {name: row | {"seconds_per_round": ""} for name, row in rows.items()}


def test_the_price_of_a_quality(fake, tmp_path):
    """Rounds to a validation HR that all of one method's seeds reach; none reaches 0.99."""
    seeds = [outcome_of(dataclasses.replace(CONFIGS["fedmf"], seed=seed))[2] for seed in range(3)]
    quality = min(max(record["val"]["hr@10"] for record in each) for each in seeds)
    first = [
        next(record["round"] for record in each if record["val"]["hr@10"] >= quality)
        for each in seeds
    ]
    compare(*THREE, "--reach", str(quality))
    document = (tmp_path / "c" / "table.md").read_text()
    rounds = np.mean(first)
    up, down = in_bytes(10 * rounds), in_bytes(20_000 * rounds)
    assert f"| fedmf | {rounds:.1f} | {up} | {down} | {in_bytes(4 * 20_010)} |" in document
    compare(*THREE, "--reach", "0.99")
    assert "| fedmf | never | - | - |" in (tmp_path / "c" / "table.md").read_text()

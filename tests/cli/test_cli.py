"""The command line: flags, exit statuses, messages, and what a run leaves; the run is a fake."""

import dataclasses
import json
import signal
import subprocess
import sys
import types

import pytest
from made_up import federation, made_up
from pictures import curve, key, said

from fedem_jax.cli import main as cli
from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.data.federation import Federation
from fedem_jax.errors import Stopped, UserError
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.report.run_tables import against_chance, against_popularity


def fake_run(config: FedEM, federation_: Federation | None, observers, directory, stop) -> None:
    """What `fedem_jax.runs.train.run` tells its observers, with made-up numbers."""
    observers = [directory, *observers]
    setting = {
        "config": config,
        "federation": federation_ or federation(config),
        "device": "cpu x 2",
        "versions": {"jax": "1.2.3"},
    }
    run, clients = made_up(config)
    for observer in observers:
        observer.on_start(setting)
        for record in run.records:
            observer.on_round(record)
        observer.on_end(run.summary, clients)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """`fedem train` with `fake_run`, in an empty working directory, and with JAX left alone."""
    module = types.ModuleType("fedem_jax.runs.train")
    module.__dict__["run"] = fake_run
    monkeypatch.setitem(sys.modules, "fedem_jax.runs.train", module)
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.setattr("fedem_jax.cli.train.wants_alternatives", lambda _: False)
    monkeypatch.chdir(tmp_path)
    return module


def settings(path) -> dict:
    return json.loads((path / "config.json").read_text())


def test_train_fills_a_run_directory_and_tells(fake, tmp_path, capsys):
    cli.main(["train", "--out", "x", "--rounds", "30", "--adapter-widths", "8", "4"])
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "candidates.npz",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "summary.json",
    ]
    assert settings(tmp_path / "x")["adapter_widths"] == [8, 4]
    shown = capsys.readouterr().out
    for words in (
        "8 clients, 120 items, 40 interactions",
        "30 rows read, 6 rows dropped",
        "0123456789abcdef",
        "cpu x 2 · jax 1.2.3",
        "compiling",
        "20 ms/round after 1.5 s of compiling",
        "300 B up, 600 kB down",
        "x/ holds summary.json",
    ):
        assert words in shown
    assert 10 <= sum(line.startswith("round ") for line in shown.splitlines()) <= 12
    assert max(map(len, shown.splitlines())) <= 80


def test_the_default_folder_names_the_experiment(fake, tmp_path):
    cli.main(["train", "--rounds", "1", "--seed", "3"])
    assert (tmp_path / "results" / "synthetic-fedem-leak-free-seed3" / "summary.json").exists()


def test_a_recorded_config_alone_runs_again_beside_the_first(fake, tmp_path):
    cli.main(["train", "--out", "x", "--rounds", "2", "--merging", "0.5"])
    cli.main(["train", "--config", "x/config.json"])
    assert settings(tmp_path / "x-2") == settings(tmp_path / "x") | {"out": "x-2"}


def test_flags_override_a_recorded_config(fake, tmp_path):
    cli.main(["train", "--out", "x", "--rounds", "2", "--dim", "4"])
    cli.main(["train", "--config=x/config.json", "--rounds", "3", "--out", "y"])
    assert settings(tmp_path / "y") == settings(tmp_path / "x") | {"out": "y", "rounds": 3}


def test_a_run_that_was_cut_off_is_gone_on_with(fake, tmp_path, capsys):
    """With its own settings; what changes no result may be given anew."""

    def cut(config, federation_, observers, directory, stop):
        directory.on_start({"config": config, "federation": federation(config)})
        raise Stopped(signal.SIGTERM)

    fake.run = cut
    with pytest.raises(SystemExit):
        cli.main(["train", "--out", "x", "--rounds", "2", "--dim", "4"])
    fake.run = fake_run
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--resume", "x", "--dim", "8"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert "x: holds a run with other settings (dim 4, now 8); a run goes on with its own" in said
    cli.main(["train", "--resume", "x", "--data-dir", "d"])
    assert settings(tmp_path / "x")["data_dir"] == "d"
    assert (tmp_path / "x" / "summary.json").exists()
    capsys.readouterr()
    cli.main(["train", "--resume", "x"])
    assert capsys.readouterr().out == "x: has finished; `fedem report x` shows it.\n"


def test_every_field_of_config_is_a_flag(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "fedem train --dataset ml-100k --rounds 30" in shown


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train", "--protocol", "papr"], "did you mean 'paper'?"),
        (["train", "--rounds", "-3"], "rounds: -3 is out of range"),
        (["train", "--lr-embedding", "nan"], "lr_embedding: nan"),
        (["train", "--client-fraction", "2"], "client_fraction: 2.0"),
        (["train", "--config", "absent.json"], "absent.json: cannot be read"),
        (["train", "--out", "taken"], "taken: already holds a run that can be resumed"),
        (["train", "--resume", "absent"], "absent/config.json: cannot be read"),
        (["train", "--resume", "taken", "--config", "x"], "leave --config out"),
        (["train", "--resume", "taken", "--out", "x"], "leave --out out"),
        (["report"], "report: names no run directory"),
        (["report", "absent"], "absent: there is no such run directory"),
    ],
)
def test_a_mistake_is_one_sentence(fake, tmp_path, capsys, args, sentence):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        cli.main(args)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("args", [["--rounds", "many"], ["--bce", "x"], ["--no-such-flag"]])
def test_a_flag_that_cannot_be_read(fake, tmp_path, args):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", *args])
    assert exit_.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_loaded_leave_nothing(fake, tmp_path, capsys):
    def fail(*_, **__):
        raise UserError("x.csv, line 3: the rating 'a' is no number; mend the row.")

    fake.run = fail
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--out", "x"])
    assert exit_.value.code == 2
    assert "line 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("started", [False, True])
def test_an_interruption_is_one_line(fake, capsys, started, number):
    def interrupted(config, federation_, observers, directory, stop):
        if started:
            directory.on_start({"config": config, "federation": federation(config)})
        raise Stopped(number)

    fake.run = interrupted
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--out", "x"])
    assert exit_.value.code == 128 + number
    said = capsys.readouterr().err
    kept = "go on with `fedem train --resume x`." if started else "nothing was written."
    assert said == f"interrupted: {kept}\n"


def lines_of(shown: str, start: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith(start)]


def test_the_closing_table_shows_both_rankings(fake, capsys):
    config = FedEM(rounds=4, protocol="paper", ties="average", top_k=5)
    summary = made_up(config)[0].summary
    cli.main(["train", "--out", "x", "--rounds", "4", "--protocol", "paper", "--ties", "average",
              "--top-k", "5", "--per-client"])  # fmt: skip
    shown = capsys.readouterr().out
    assert "fedem on synthetic · protocol paper* (ties average) · 0123456789abcdef" in shown
    names = ("hr@5", "ndcg@5", "mrr")

    def values(of) -> list[str]:
        return [f"{of(part, name):.4f}" for part in ("test", "test_full") for name in names]

    headline, levels = summary["headline"], summary["chance"]
    for label, of in {
        "best validation": lambda part, name: headline[part][name],
        "  95 % from": lambda part, name: headline["interval"][part][name][0],
        "  to": lambda part, name: headline["interval"][part][name][1],
        "last": lambda part, name: summary["last"][part][name],
        "chance": lambda part, name: levels[part][name],
        "popularity": lambda part, name: summary["popularity"][part][name],
        "best test *": lambda part, name: summary["best_test"][part][name],
    }.items():
        assert lines_of(shown, label)[0].split()[-6:] == values(of)
    assert "* the round that protocol paper* reports" in shown
    for entry in summary["by_activity"]:
        low, high = entry["history"]
        (line,) = lines_of(shown, f"{low} to {high}  " if low < high else f"{low}   ")
        assert line.split()[-7:] == [
            str(entry["clients"]), *values(lambda part, name, entry=entry: entry[part][name])
        ]  # fmt: skip
    assert f"{headline['coverage']:.1%} of the items are in some top 5" in shown
    assert "99 candidates; full: all 120 items" in shown
    assert "x/ holds summary.json, metrics.jsonl, curves.png, per_client.parquet" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("interval", "level", "clients", "said"),
    [
        ([0.05, 0.15], 0.10, 1000, True),
        ([0.12, 0.20], 0.10, 1000, False),
        ([0.01, 0.08], 0.10, 1000, False),
        ([0.0, 0.0], 0.002, 1000, True),  # no hit is no proof where two were to be expected
        ([0.0, 0.0], 0.1, 1000, False),
        ([0.001, 0.002], 0.0025, 1000, False),
    ],
)
def test_chance_within_the_interval_is_said_plainly(interval, level, clients, said):
    summary = made_up(FedEM(rounds=2))[0].summary
    summary["clients"] = clients
    summary["chance"] = {"test": {"hr@10": level}}
    summary["headline"]["interval"] = {"test": {"hr@10": interval}}
    sentence = "not distinguishable from chance: sampled HR@10" if said else ""
    assert against_chance(summary) == sentence


@pytest.mark.parametrize(
    ("interval", "level", "sentence"),
    [
        ([0.05, 0.15], 0.10, "not distinguishable from popularity: sampled HR@10"),
        ([0.05, 0.15], 0.20, "below popularity: sampled HR@10"),
        ([0.05, 0.15], 0.04, ""),
        ([0.0, 0.0], 0.0, "not distinguishable from popularity: sampled HR@10"),
        ([0.0, 0.0], 0.1, "below popularity: sampled HR@10"),
    ],
)
def test_a_method_is_weighed_against_popularity(interval, level, sentence):
    summary = made_up(FedEM(rounds=2))[0].summary
    summary["clients"] = 1000
    summary["popularity"] = {"test": {"hr@10": level}}
    summary["headline"]["interval"] = {"test": {"hr@10": interval}}
    assert against_popularity(summary) == ([sentence] if sentence else [])
    summary["method"] = "popularity"
    assert against_popularity(summary) == []


def test_a_run_of_an_earlier_version_is_shown_without_popularity(fake, capsys, tmp_path):
    cli.main(["train", "--out", "x", "--rounds", "2"])
    assert lines_of(capsys.readouterr().out, "popularity")
    path = tmp_path / "x" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["popularity"]
    path.write_text(json.dumps(summary))
    cli.main(["report", "x"])
    shown = capsys.readouterr().out
    assert lines_of(shown, "chance")
    assert "popularity" not in shown


def test_report_redraws_and_compares(fake, tmp_path, capsys, pictures):
    for name in ("x", "y"):
        cli.main(["train", "--out", name, "--rounds", "2", "--top-k", "5" if name == "x" else "20"])
        (tmp_path / name / "curves.png").unlink()
    capsys.readouterr()
    cli.main(["report", "x", "y", "--picture", "both.png"])
    for picture in ("x/curves.png", "y/curves.png", "both.png"):
        assert (tmp_path / picture).exists()
    assert said(pictures["curves.png"])[0] == "fedem on synthetic"
    both = pictures["both.png"]
    assert said(both)[0] == "Learning curves"
    assert list(key(both.axes[3].get_legend())) == ["x", "y"]
    losses = [curve(line) for line in both.axes[3].lines]
    assert losses == [([1, 2], [1, 1 / 2])] * 2
    shown = capsys.readouterr().out
    table = shown[shown.index("Test metrics at the best validation round") :]
    assert "HR@10  NDCG@10" in table
    assert "sd over" not in table


def test_report_sums_up_runs_that_differ_in_the_seed(fake, capsys, monkeypatch):
    monkeypatch.setattr("fedem_jax.report.pictures.draw_curves", lambda *_: None)
    runs = {f"s{seed}": ["--seed", str(seed)] for seed in range(3)}
    runs |= {"again": ["--seed", "2", "--block-size", "4"], "wide": ["--seed", "3", "--dim", "32"]}
    for name, flags in runs.items():
        cli.main(["train", "--out", name, "--rounds", "2", *flags])
    capsys.readouterr()
    cli.main(["report", *runs])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    below = shown[shown.index("mean ± sd over 3 seeds") :].splitlines()
    assert "mean" not in "".join(below[1:])
    headlines = [made_up(FedEM(rounds=2, seed=seed))[0].summary["headline"] for seed in range(3)]
    spreads = [
        over_seeds([headline[part][name] for headline in headlines])
        for part in ("test", "test_full") for name in ("hr@10", "ndcg@10")
    ]  # fmt: skip
    assert below[0].split()[-4:] == [f"{spread.mean:.4f}" for spread in spreads]
    assert below[1].split()[-8:] == " ".join(f"± {spread.sd:.4f}" for spread in spreads).split()
    assert below[1].startswith("settings of s0")


def test_help_is_quick_because_it_imports_nothing_heavy():
    script = (
        "import sys; from fedem_jax.cli.main import main; main([])\n"
        "heavy = {'jax', 'pandas', 'matplotlib', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert b"usage: fedem [--plugin FILE.py] COMMAND" in done.stdout


def test_every_core_becomes_a_device():
    script = (
        "from fedem_jax.runs import host; host.use_all_cores(); import jax\n"
        "assert len(jax.devices('cpu')) == host.usable_cores()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- what is shown --------------------------------------------------------------------------------


def test_quiet_shows_warnings_alone(fake, tmp_path, capsys):
    cli.main(["train", "--quiet", "--rounds", "3"])
    assert capsys.readouterr() == ("", "")
    cli.main(["train", "--quiet", "--rounds", "3"])  # goes to the next folder, and says so
    out, err = capsys.readouterr()
    assert out == ""
    assert "already holds a run" in err
    assert len(err.splitlines()) == 1


def test_json_is_the_summary_and_nothing_else(fake, tmp_path, capsys):
    cli.main(["train", "--json", "--rounds", "3", "--out", "x"])
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "x" / "summary.json").read_text())
    assert "best validation" in err
    cli.main(["train", "--json", "--quiet", "--resume", "x"])  # has finished
    assert capsys.readouterr() == (out, "")

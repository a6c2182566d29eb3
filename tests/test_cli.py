"""The command line: flags, exit statuses, messages, and what a run leaves; the run is a fake."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from fedem_jax import cli
from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.protocol import preset


def federation() -> Federation:
    """Eight clients with three interactions each, among 120 items."""
    clients, items = 8, 120
    offsets = np.arange(clients + 1, dtype=np.int32)
    one = np.zeros(clients, np.int32)
    candidates = np.zeros((clients, 99), np.int32)
    return Federation(
        name="synthetic",
        protocol=preset("leak-free"),
        num_items=items,
        offsets=offsets,
        items=one,
        barred_offsets=offsets,
        barred=one,
        val_item=one,
        test_item=one,
        val_candidates=candidates,
        test_candidates=candidates,
        user_ids=np.arange(clients),
        item_ids=np.arange(items),
        seed=0,
        fingerprint="0123456789abcdef",
        cleaning={"rows_read": 30, "rows_dropped": 6, "users": 8},
    )


def fake_run(config: Config, federation_: Federation | None = None, observers=()) -> None:
    """What `fedem_jax.train.run` tells its observers, with made-up numbers."""
    setting = {
        "config": config,
        "federation": federation_ or federation(),
        "device": "cpu x 2",
        "versions": {"jax": "1.2.3"},
    }
    for observer in observers:
        observer.start(setting)
    entries = []
    for number in range(1, config.rounds + 1):
        values = {"hr@10": 0.5, "ndcg@10": 0.25}
        entries.append({"round": number, "val": values, "test": values})
        costs = {"bytes_up": 10, "bytes_down": 20, "seconds": 0.1, "epochs": 3.0}
        for observer in observers:
            observer.record(entries[-1] | costs | {"loss": 1 / number})
    summary = {
        "method": config.method,
        "dataset": config.dataset,
        "protocol": config.protocol,
        "protocol_switches": dataclasses.asdict(preset(config.protocol)),
        "fingerprint": "0123456789abcdef",
        "seed": config.seed,
        "rounds": config.rounds,
        "headline": entries[0],
        "best_test": {key: entries[-1][key] for key in ("round", "test")},
        "last": entries[-1],
        "clients": 8,
        "items": 120,
        "interactions": 24,
        "compile_seconds": 1.5,
        "seconds_per_round": 0.02,
        "bytes_up": 10 * config.rounds,
        "bytes_down": 20_000 * config.rounds,
        "device": "cpu x 2",
        "versions": {"jax": "1.2.3"},
    }
    for observer in observers:
        observer.finish(summary)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """`fedem train` with `fake_run`, in an empty working directory, and with JAX left alone."""
    module = types.ModuleType("fedem_jax.train")
    module.__dict__["run"] = fake_run
    monkeypatch.setitem(sys.modules, "fedem_jax.train", module)
    monkeypatch.setattr(cli, "use_all_cores", lambda: None)
    monkeypatch.setattr(cli, "cache_programs", lambda: None)
    monkeypatch.chdir(tmp_path)
    return module


def settings(path) -> dict:
    return json.loads((path / "config.json").read_text())


def test_train_fills_a_run_directory_and_tells(fake, tmp_path, capsys):
    cli.main(["train", "--out", "x", "--rounds", "30", "--adapter-widths", "8", "4"])
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "summary.json",
    ]
    assert settings(tmp_path / "x")["adapter_widths"] == [8, 4]
    shown = capsys.readouterr().out
    for words in (
        "8 clients, 120 items, 24 interactions",
        "30 rows read, 6 rows dropped",
        "0123456789abcdef",
        "cpu x 2 · jax 1.2.3",
        "compiling",
        "best validation round",
        "best test (for comparison with",
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
        (["train", "--rounds", "-3"], "rounds: -3 is too small"),
        (["train", "--lr-embedding", "nan"], "lr_embedding: nan"),
        (["train", "--client-fraction", "2"], "client_fraction: 2.0"),
        (["train", "--config", "absent.json"], "absent.json: cannot be read"),
        (["train", "--out", "taken"], "taken: already holds a run"),
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


@pytest.mark.parametrize("started", [False, True])
def test_an_interruption_is_one_line(fake, capsys, started):
    def interrupted(config, federation_=None, observers=()):
        if started:
            fake_run(dataclasses.replace(config, rounds=2), None, observers[:1])
        raise KeyboardInterrupt

    fake.run = interrupted
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--out", "x"])
    assert exit_.value.code == 130
    said = capsys.readouterr().err
    kept = "x/metrics.jsonl holds the rounds so far." if started else "nothing was written."
    assert said == f"interrupted: {kept}\n"


def test_report_redraws_and_compares(fake, tmp_path, capsys):
    for name in ("x", "y"):
        cli.main(["train", "--out", name, "--rounds", "2"])
        (tmp_path / name / "curves.png").unlink()
    capsys.readouterr()
    cli.main(["report", "x", "y", "--picture", "both.png"])
    for picture in ("x/curves.png", "y/curves.png", "both.png"):
        assert (tmp_path / picture).exists()
    shown = capsys.readouterr().out
    assert "Test values at the best validation round" in shown


def test_help_is_quick_because_it_imports_nothing_heavy():
    script = (
        "import sys; from fedem_jax.cli import main; main([])\n"
        "heavy = {'jax', 'pandas', 'matplotlib', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert b"usage: fedem COMMAND" in done.stdout


def test_every_core_becomes_a_device():
    script = (
        "from fedem_jax import cli; cli.use_all_cores(); import jax\n"
        "assert len(jax.devices('cpu')) == cli.usable_cores()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

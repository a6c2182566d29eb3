"""`fedem sweep --shard` and `--collect`: what is shown, and what is left behind."""

import json
import shlex

import pandas as pd
import pytest
from slope import put_among_methods

from fedem_jax.cli import main as cli
from fedem_jax.cli.sweep import command_of
from fedem_jax.config.file import load_settings
from fedem_jax.sweeps.shards import Shard

ARGS = "--method slope --rounds 1 --seeds 2 --vary speed=0.1,1,2"


@pytest.fixture(autouse=True)
def method(monkeypatch, tmp_path):
    """`slope` among the methods, a small federation, an empty working directory."""
    put_among_methods(monkeypatch)
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)


def fedem_sweep(more: str) -> None:
    cli.main(["sweep", *ARGS.split(), *more.split()])


def test_collect_names_what_is_missing_and_then_leaves_what_a_sweep_leaves(tmp_path, capsys):
    fedem_sweep("--out s --shard 2/2")
    shown = capsys.readouterr().out
    assert "3 settings x 2 seeds = 6 trials of 1 round; shard 2/2 of them" in shown
    assert "3 trials, rounds 1 to 1: 1 program to compile" in shown
    assert "shard 2/2 has ended; once all have, --collect makes the tables" in shown
    assert "best.json" not in shown

    with pytest.raises(SystemExit) as end:
        fedem_sweep("--out s --collect")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "s/shards: the best setting may be missing (1/2 is missing); run again, then" in said
    (command,) = [line.strip() for line in said.splitlines() if "--shard" in line]
    assert command == f"fedem sweep {ARGS} --out s --shard 1/2"
    cli.main(shlex.split(command)[1:])

    fedem_sweep("--out whole")
    capsys.readouterr()
    fedem_sweep("--out s --collect")
    assert "speed=2: test HR@5" in capsys.readouterr().out
    collected, whole = tmp_path / "s", tmp_path / "whole"
    assert {path.name for path in collected.iterdir()} == {
        "shards", *(path.name for path in whole.iterdir())
    }  # fmt: skip
    assert load_settings(collected / "best.json") == load_settings(whole / "best.json")
    tables = [
        [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
        for folder in (collected, whole)
    ]
    assert len(tables[0]) == 5
    assert tables[0] == tables[1]
    trials = [pd.read_csv(folder / "trials.csv").drop(columns="seconds") for folder in
              (collected, whole)]  # fmt: skip
    pd.testing.assert_frame_equal(*trials)


def test_a_shard_says_as_json_what_it_has(capsys):
    fedem_sweep("--out s --shard 1/6 --json --quiet")
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["directory"] == "s/shards/1-of-6"
    assert [row["status"] for row in found["settings"]] == ["unfinished"]


def test_a_command_has_no_password():
    url = "postgresql://me:pw@host/db"
    args = ["--collect", "--storage", url]
    assert command_of(args) == "fedem sweep --collect --storage postgresql://me:***@host/db"
    assert command_of(args, Shard(1, 2)).startswith("fedem sweep --shard 1/2 --storage")

"""`fedem train` twice: the second run gets a folder of its own, and says so. What has no effect is
said before anything runs."""

import json

import fake_run
import pytest

from fedem_jax.cli import main as cli

USUAL = "results/synthetic-fedem-leak-free-seed0"


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """Runs with made-up numbers, in an empty working directory."""
    fake_run.install(monkeypatch, tmp_path)
    monkeypatch.setattr("fedem_jax.cli.train.wants_alternatives", lambda _: False)


def test_a_second_run_goes_to_the_next_folder_and_says_so(tmp_path, capsys):
    cli.main(["train", "--rounds", "2"])
    assert "already" not in capsys.readouterr().out
    for number in (2, 3):
        cli.main(["train", "--rounds", "2"])
        shown = capsys.readouterr().out
        assert f"{USUAL}: already holds a run, so this one goes to {USUAL}-{number}." in shown
        assert f"{USUAL}-{number}/ holds" in shown
        config = json.loads((tmp_path / f"{USUAL}-{number}" / "config.json").read_text())
        assert config["out"] == f"{USUAL}-{number}"


def test_with_out_a_taken_folder_is_refused(capsys):
    cli.main(["train", "--rounds", "2", "--out", "r"])
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--rounds", "2", "--out", "r"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "r: already holds a run; give another --out, such as `--out r-2`" in said
    assert "`rm -r r`" in said


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--method fcf --batch-size 32", "batch_size: without effect on fcf"),
        ("--lr-network 0.5", "lr_network: without effect on fedem with these settings."),
        ("--merging none --alpha 0.5", "alpha: without effect on fedem"),
        ("--backbone ncf --lr-network 0.5", ""),
        ("--method fcf", ""),
    ],
)
def test_a_setting_without_effect_is_said(args, sentence, capsys):
    cli.main(["train", "--rounds", "1", *args.split()])
    shown = capsys.readouterr().out
    assert sentence in shown
    assert ("without effect" in shown) == bool(sentence)


def test_a_picture_that_cannot_be_drawn_costs_a_sentence(tmp_path, capsys, monkeypatch):
    def broken(*args, **options):
        raise ValueError("no font [bold] $x")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    cli.main(["train", "--rounds", "2", "--out", "r"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "r: cannot be drawn (no font [bold] $x)." in shown
    assert (tmp_path / "r" / "summary.json").exists()
    cli.main(["report", "r", "--picture", "all.png"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "r: cannot be drawn (no font [bold] $x)." in shown
    assert "all.png: cannot be drawn" in shown
    assert "best validation" in shown
    assert not (tmp_path / "all.png").exists()


def test_a_comparison_without_a_picture_has_its_tables(tmp_path, capsys, monkeypatch):
    def broken(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    cli.main(["compare", "--methods", "fedem", "fedmf", "--seeds", "1", "--rounds", "2"])
    shown = " ".join(capsys.readouterr().out.split())
    folder = "results/compare-synthetic-leak-free"
    assert f"{folder}/comparison.png: cannot be drawn (No space left on device)." in shown
    assert (tmp_path / folder / "table.md").exists()
    assert (tmp_path / folder / "fedmf-seed0" / "summary.json").exists()

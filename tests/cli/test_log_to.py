"""`fedem train --log-to`: which trackers a run gets, and where they write. The run is a fake."""

from pathlib import Path

import fake_run
import pytest

import fedem_jax as fj
from fedem_jax.cli import main as cli
from fedem_jax.watching import by_name


class Tracker(fj.Observer):
    """Makes its folder, and nothing else."""

    def __init__(self, folder):
        self.folder = folder

    def on_start(self, setting):
        self.folder.mkdir(parents=True, exist_ok=True)


@pytest.fixture
def given(monkeypatch, tmp_path):
    """The folders of the trackers of each run, in an empty working directory."""
    folders = []

    def collect(observers):
        folders.append([each.folder for each in observers if isinstance(each, Tracker)])

    fake_run.install(monkeypatch, tmp_path, collect)
    for name in by_name.TRACKERS:
        monkeypatch.setitem(by_name.TRACKERS, name, lambda path, name=name: Tracker(path / name))
    return folders


TRAIN = ["train", "--rounds", "2", "--out", "x", "--alternatives", "no"]


def test_there_is_none_unless_one_is_asked_for(given):
    cli.main(TRAIN)
    assert given == [[]]


def test_several_write_below_the_run_directory(given, capsys):
    cli.main([*TRAIN, "--log-to", "wandb", "tensorboard"])
    assert given == [[Path("x/tensorboard"), Path("x/wandb")]]
    assert "x/ holds tensorboard, wandb" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_trackers_and_may_get_more(given):
    cli.main([*TRAIN, "--log-to", "tensorboard"])
    Path("x/summary.json").unlink()
    cli.main(["train", "--resume", "x", "--alternatives", "no"])
    Path("x/summary.json").unlink()
    cli.main(["train", "--resume", "x", "--alternatives", "no", "--log-to", "mlflow"])
    assert given[1:] == [[Path("x/tensorboard")], [Path("x/tensorboard"), Path("x/mlflow")]]


def test_the_flag_belongs_to_train_alone(given, capsys):
    for command in ("plan", "sweep"):
        with pytest.raises(SystemExit):
            cli.main([command, "--log-to", "wandb"])
        assert "--log-to" in capsys.readouterr().err

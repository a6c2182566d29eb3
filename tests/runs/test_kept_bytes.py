"""The bytes of the states that a run keeps, said before it runs."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.cli.main import main
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation, kept_bytes
from fedem_jax.runs.train import run
from fedem_jax.storage import files


@pytest.mark.parametrize("method", ["fedem", "fedmf"])
def test_they_are_those_of_two_states(method):
    federation, config = small_federation(), config_of(method, rounds=3)
    state = Simulation(config, federation).init()
    each = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert kept_bytes(config, federation) == 2 * each > 0
    assert kept_bytes(dataclasses.replace(config, rounds=1), federation) == each
    assert kept_bytes(dataclasses.replace(config, keep="none"), federation) == 0


def test_a_disk_without_room_for_them_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    federation, config = small_federation(), config_of("fedmf", rounds=1, top_k=5)
    with pytest.raises(UserError, match=r"run: the states to be kept take .* 100 B are free; make"):
        run(config, federation, directory=tmp_path / "run")
    assert not list(tmp_path.iterdir())
    run(dataclasses.replace(config, keep="none"), federation, directory=tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["compare", "--methods", "fedmf", "--seeds", "2", "--out", str(tmp_path / "c")])
    assert "or keep none (--keep none)" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "c").exists()


def test_the_version_is_said(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("fedem_jax ")

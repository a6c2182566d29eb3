"""The skeleton in CONTRIBUTING.md is a method: it runs, and computes what FedMF computes."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from skeleton import CODE, PAGE
from toy import small_federation

from fedem_jax.config.registry import METHODS, Method
from fedem_jax.config.settings import FedMF
from fedem_jax.evaluation.summary import PARTS
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run


@pytest.fixture(scope="module")
def skeleton():
    scope: dict = {"__name__": "skeleton"}
    exec(compile(CODE, "CONTRIBUTING.md", "exec"), scope)
    return scope


def test_the_skeleton_is_fedmf(skeleton, monkeypatch):
    """With uniform weights, after the same rounds of the same seed."""
    monkeypatch.setitem(METHODS, "skeleton", Method(skeleton["Skeleton"], skeleton["skeleton"]))
    settings = {
        "dim": 4, "rounds": 3, "bce": "logit", "local_epochs": 2, "client_fraction": 0.8,
        "size_classes": 1, "top_k": 3, "lr_embedding": 0.1, "seed": 2,
    }  # fmt: skip
    federation = small_federation()
    config = FedMF(**settings, weighting="uniform")
    devices = jax.devices()[:1]
    ours = run(skeleton["Skeleton"](**settings), federation, devices=devices)
    theirs = run(config, federation, devices=devices)
    start = Simulation(config, federation, devices).init()
    for read in (lambda state: state.server.items, lambda state: state.clients.private["user"]):
        began, mine, other = (np.asarray(read(each)) for each in (start, ours.state, theirs.state))
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)
        assert np.abs(mine - began).max() > 0.1  # training has changed it
    assert len(ours.records) == len(theirs.records) == 3
    for mine, other in zip(ours.records, theirs.records, strict=True):
        for part in PARTS:
            assert mine[part] == other[part]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)
        for name in ("epochs", "coverage", "bytes_down"):
            assert mine[name] == other[name]
        # FedMF also counts the 4 bytes in which a client tells its sample count
        assert mine["bytes_up"] == other["bytes_up"] - 4 * config.round_sizes(7)[0]


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:fedem_jax|tests)/[\w/]+\.py)`", PAGE)))
)
def test_the_files_that_it_names_exist(path):
    assert (Path(__file__).parent.parent / path).is_file()

"""The skeleton in CONTRIBUTING.md is a method: it runs, learns, and is the FedMF that it looks
like."""

import re
from pathlib import Path

import numpy as np
import pytest
from toy import small_federation

from fedem_jax.methods import METHODS
from fedem_jax.settings import FedMF
from fedem_jax.train import run

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def skeleton():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    scope: dict = {"__name__": "skeleton"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), scope)
    return scope


def test_the_skeleton_is_a_method(skeleton, monkeypatch):
    monkeypatch.setitem(METHODS, "skeleton", skeleton["skeleton"])
    settings = {
        "dim": 4, "rounds": 2, "bce": "logit", "local_epochs": 2, "client_fraction": 0.8,
        "size_classes": 1, "top_k": 3,
    }  # fmt: skip
    federation = small_federation()
    ours = run(skeleton["Skeleton"](**settings), federation)
    theirs = run(FedMF(**settings, weighting="uniform"), federation)
    assert [r["loss"] for r in ours.records] != [ours.records[0]["loss"]] * 2
    table = ours.state.server.items
    assert table.shape == theirs.state.server.items.shape
    assert np.isfinite(table).all()
    assert [r["bytes_down"] for r in ours.records] == [r["bytes_down"] for r in theirs.records]


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:fedem_jax|tests)/[\w/]+\.py)`", PAGE)))
)
def test_the_files_that_it_names_exist(path):
    assert (Path(__file__).parent.parent / path).is_file()

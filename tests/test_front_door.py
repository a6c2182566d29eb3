"""All that computes takes a federation, and returns a table, a picture and a short sentence."""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from toy import small_federation

import fedem_jax as fj
import fedem_jax.sweeps.run  # hides no name of the front door

SMALL = {"dim": 4, "rounds": 2, "num_negative": 2, "local_epochs": 1, "top_k": 3}
CALLS = {
    "compare": lambda data: fj.compare(
        ["item-knn", "popularity"], data, seeds=2, **SMALL
    ),
    "sweep": lambda data: fj.sweep(
        fj.preset("released", method="fedmf", **SMALL), {"lr_embedding": [0.1, 1.0]}, data, seeds=2
    ),
    "audit": lambda data: fj.audit(fj.preset("released", method="local-only", **SMALL), data),
    "plan": lambda data: fj.plan(fj.preset("released", **SMALL), data),
    "bottleneck": lambda data: fj.bottleneck(fj.preset("released", **SMALL), data, alone=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return small_federation(clients=6, items=130)


@pytest.fixture(scope="module", params=CALLS)
def named(request, data):
    return request.param, CALLS[request.param](data)


@pytest.mark.slow_but("plan")
def test_each_shows_itself(named, data, tmp_path, pictures):
    name, result = named
    assert repr(result).startswith("<")
    assert len(repr(result)) < 300
    assert data.name in repr(result)
    assert isinstance(result.table, pd.DataFrame)
    assert len(result.table)
    picture = result.plot(tmp_path / f"{name}.png")
    assert matplotlib.image.imread(picture).std() > 0.01


@pytest.mark.slow
def test_a_comparison_is_that_of_the_single_runs(data):
    result = fj.compare(["fedmf", "popularity"], data, seeds=2, **SMALL)
    alone = fj.run(fj.preset(dataset=data.name, method="fedmf", seed=1, **SMALL), data).per_client
    mine = result.per_client("fedmf").query("seed == 1")
    np.testing.assert_array_equal(mine["test"], alone["test"])
    with pytest.raises(fj.UserError, match="'fedmff' has no result; did you mean 'fedmf'"):
        result.per_client("fedmff")
    mean = result.table.loc["fedmf", "test hr@3 mean"]
    assert mean == pytest.approx(result.per_client("fedmf")["test hr@3"].mean())


def test_a_comparison_in_a_folder_goes_on_there(data, tmp_path, monkeypatch):
    settings = {"seeds": 1, "directory": tmp_path / "c", **SMALL}
    first = fj.compare(["popularity"], data, **settings)
    assert (tmp_path / "c" / "table.md").is_file()
    monkeypatch.setattr("fedem_jax.runs.train.run", lambda *_: pytest.fail("ran again"))
    again = fj.compare(["popularity"], data, **settings)
    pd.testing.assert_frame_equal(first.table, again.table)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fj.compare(["fedmf"], dimm=3), "setting 'dimm' is unknown; did you mean 'dim'"),
        (lambda: fj.compare(["fedmf"], dim="wide"), "dim"),
        (lambda: fj.compare(["fedmff"]), "did you mean 'fedmf'"),
        (lambda: fj.compare(["fedmf"], seed=3), "'seed' is chosen for all methods"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(fj.UserError, match=sentence):
        call()


def test_a_federation_is_enough_for_an_audit(data, monkeypatch):
    seen = []
    monkeypatch.setattr("fedem_jax.analysis.audit.run", lambda config, *_: seen.append(config) or 1)
    with pytest.raises(AttributeError):  # the run above has no records
        fj.audit(data)
    (config,) = seen
    assert (config.method, config.rounds) == ("local-only", 50)
    assert config.rules() == data.protocol


def test_names_are_listed_and_functions_stay_functions():
    assert {"compare", "sweep", "audit", "plan", "bottleneck", "run"} <= set(dir(fj))
    assert all(callable(getattr(fj, name)) for name in CALLS)


def test_python_uses_all_cores_too():
    program = (
        "from fedem_jax.runs import host; host.usable_cores = lambda: 3\n"
        "import fedem_jax as fj, jax; fj.run; assert len(jax.devices()) == 3"
    )
    plain = {"PATH": "", "JAX_PLATFORMS": "cpu"}
    assert subprocess.run([sys.executable, "-c", program], env=plain).returncode == 0

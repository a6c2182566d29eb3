"""Methods from outside the package: the skeleton of CONTRIBUTING.md in a file of its own."""

import dataclasses
import re
from types import SimpleNamespace

import jax.numpy as jnp
import pandas as pd
import pytest
from skeleton import CODE, REGISTERED

import fedem_jax as fj
from fedem_jax.cli import main as cli
from fedem_jax.config import plugins
from fedem_jax.config.settings import AdamClients, FedMF
from fedem_jax.runs.simulation import Simulation
from fedem_jax.testing import check_method

GENTLE = {"dim": 4, "lr_embedding": 0.03, "local_epochs": 2, "bce": "logit", "top_k": 3}


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    before = dict(fj.METHODS)
    yield fj.METHODS
    fj.METHODS.clear()
    fj.METHODS.update(before)
    plugins.load_installed.cache_clear()


@pytest.fixture
def plugin(tmp_path):
    """The skeleton in a file that registers it."""
    file = tmp_path / "mine.py"
    file.write_text(REGISTERED)
    return file


@pytest.fixture
def fedem(plugin, capsys):
    """Runs a command that knows the skeleton; returns what it prints."""

    def run(*args):
        cli.main(["--plugin", str(plugin), *args])
        return capsys.readouterr().out

    return run


SMALL = ["--rounds", "2", "--dim", "4"]


@pytest.mark.slow
def test_commands_know_the_method_of_a_file(fedem, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fedem("train", "--method", "skeleton", "--help")
    assert "skeleton" in capsys.readouterr().out
    out = str(tmp_path / "run")
    fedem("train", "--method", "skeleton", *SMALL, "--out", out, "--seed", "3")
    assert "skeleton" in fedem("report", out)
    assert fj.open_run(out).recommend(k=2).shape == (1200, 4)
    assert "On the wire" in fedem("plan", "--method", "skeleton")


@pytest.mark.slow
def test_it_is_swept_and_compared(fedem, tmp_path):
    fedem(
        "sweep", "--method", "skeleton", *SMALL, "--vary", "lr_embedding=0.1,0.2",
        "--seeds", "2", "--out", str(tmp_path / "sweep"),
    )  # fmt: skip
    assert len(pd.read_parquet(tmp_path / "sweep" / "trials.parquet")) == 4
    fedem(
        "compare", "--methods", "skeleton", "popularity", "--rounds", "2", "--seeds", "1",
        "--settings", "dim=4", "--out", str(tmp_path / "compared"),
    )  # fmt: skip
    assert "| skeleton |" in (tmp_path / "compared" / "table.md").read_text()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"mine\.py is no file"),
        ("x = 1\ny = (\n", r"mine\.py, line 2: cannot be run \(SyntaxError"),
        ("x = 1\n\nx.register()\n", r"mine\.py, line 3: cannot be run \(AttributeError"),
        (REGISTERED.replace('"skeleton"', '"fedmf"'), r"'fedmf' is the name of another method"),
        (REGISTERED.replace('"skeleton"', '"My method"'), "'My method' is no name of a method"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, sentence, tmp_path, capsys):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"--plugin={file}"])
    assert ended.value.code == 2
    assert re.search(sentence, capsys.readouterr().err.replace("\n", ""))


@pytest.mark.parametrize("kind", [object, FedMF(), int])
def test_only_settings_are_registered(kind):
    with pytest.raises(fj.UserError, match="takes a dataclass derived from Config"):
        fj.register(kind, print)


def test_installed_packages_are_asked_when_a_name_is_unknown(monkeypatch, methods):
    def load():
        scope = {"__name__": "installed"}
        exec(REGISTERED, scope)

    point = SimpleNamespace(name="skeleton", value="installed", load=load)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    fj.preset(method="fedmf")
    assert "skeleton" not in methods
    assert fj.preset(method="skeleton").method == "skeleton"


def test_a_broken_package_is_named(monkeypatch):
    point = SimpleNamespace(name="theirs", value="their.module", load=lambda: 1 / 0)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.raises(fj.UserError, match=r"plug-in 'theirs' \(their\.module\): cannot be"):
        fj.preset(method="skeleton")


# --- what a method keeps to -----------------------------------------------------------------------


@pytest.fixture
def skeleton():
    scope = {"__name__": "skeleton"}
    exec(CODE, scope)
    return scope


def test_the_skeleton_keeps_to_all(skeleton):
    fj.register(skeleton["Skeleton"], skeleton["skeleton"])
    check_method(skeleton["Skeleton"](**GENTLE))


def breaking(algorithm, fault):
    """The skeleton with a fault in its round, or in its scores."""

    def broken(config, layout):
        made = algorithm(config, layout)

        def round(draws, state, hyper):
            state, info = made.round(draws, state, hyper)
            if fault == "shapes":
                state = state._replace(server=state.server._replace(items=jnp.zeros(3)))
            if fault == "finite":
                info = info._replace(loss=info.loss * jnp.nan)
            return state, info

        def score(state, places, hyper):
            uneven = jnp.where(layout.block > 1, 1.1, 1.0)
            return made.score(state, places, hyper) * (uneven if fault == "division" else 1.0)

        return made._replace(round=round, score=score)

    return broken


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("shapes", r"state\.server\.items: a round turns float32\[\d+, 4\] into float32\[3\]"),
        ("finite", "loss: not finite"),
        pytest.param("division", "scores depend on blocks", marks=pytest.mark.slow),
    ],
)
def test_a_method_that_breaks_a_rule_is_told_which(skeleton, fault, sentence):
    fj.register(skeleton["Skeleton"], breaking(skeleton["skeleton"], fault))
    with pytest.raises(AssertionError, match=sentence):
        check_method(skeleton["Skeleton"](**GENTLE))


def test_randomness_of_its_own_is_found(skeleton, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Restless(AdamClients):
        method: str = "restless"

    fj.register(Restless, skeleton["skeleton"])
    init, seeds = Simulation.init, iter(range(9))

    def moved(self):
        state = init(self)
        items = state.server.items + 1e-3 * next(seeds)
        return state._replace(server=state.server._replace(items=items))

    monkeypatch.setattr(Simulation, "init", moved)
    with pytest.raises(AssertionError, match="two runs with the same seed differ"):
        check_method(Restless(**GENTLE))

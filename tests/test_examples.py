"""The examples in the docstrings of the public functions, as they stand there."""

import doctest
import inspect

import pytest

import fedem_jax as fj
from fedem_jax.models.names import BACKBONES, LOSSES

FUNCTIONS = [name for name in dir(fj) if inspect.isfunction(getattr(fj, name))]


def test_the_functions_are_found():
    assert {"load", "federation", "run", "open_run", "compare", "sweep", "register"} <= {*FUNCTIONS}


@pytest.fixture
def methods():
    """What an example registers is forgotten after it."""
    registries = (fj.METHODS, LOSSES, BACKBONES)
    before = [dict(known) for known in registries]
    yield
    for known, saved in zip(registries, before, strict=True):
        known.clear()
        known.update(saved)


@pytest.mark.slow_but(*{*FUNCTIONS} - {"audit", "bottleneck", "compare", "sweep"})
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("methods")
def test_an_example_gives_what_it_says(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(fj, name)) or ""
    assert "\nExamples:\n" in text
    example = doctest.DocTestParser().get_doctest(
        text, {"fj": fj, "__name__": "example"}, name, None, None
    )
    runner = doctest.DocTestRunner()
    runner.run(example)
    assert runner.summarize(verbose=False) == (0, len(example.examples)), capsys.readouterr().out

"""The programs of docs/howto/watching.md end early, and say why."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "watching.md"
OF_A_RUN, OF_A_SWEEP = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M)


def ran(code):
    """The names that a program leaves behind."""
    scope: dict = {}
    exec(compile(code, PAGE.name, "exec"), scope)
    return scope


@pytest.mark.slow
def test_the_run_ends_early(capsys):
    summary = ran(OF_A_RUN)["result"].summary
    said = f"validation HR@10 is above 0.4 {summary['rounds']}\n"
    assert capsys.readouterr().out == said
    assert summary["last"]["val"]["hr@10"] > 0.4
    assert summary["rounds"] < summary["planned_rounds"] == 50


@pytest.mark.slow
def test_the_sweep_ends_early(capsys):
    trials = ran(OF_A_SWEEP)["result"].trials
    first, last = capsys.readouterr().out.splitlines()
    assert first == "3 trials to run"
    assert last.startswith("a trial has 0.")
    assert len(trials) < 3

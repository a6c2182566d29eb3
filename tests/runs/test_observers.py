"""Observers: when they are called, how they end a run early, and what happens if they fail."""

import dataclasses
import json

import pytest
from cutting import assert_equal, cut_off, run, toys
from toy import small_federation

import fedem_jax as fj
from fedem_jax.report.run_tables import closing
from fedem_jax.report.terminal import Terminal
from fedem_jax.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def federation():
    return small_federation()


@pytest.fixture
def config(monkeypatch, federation):
    return toys(monkeypatch, federation)


class Log(fj.Observer):
    """Remembers what it was called with, and answers `answer` after round `at`."""

    def __init__(self, at=0, answer=None):
        self.at, self.answer, self.heard = at, answer, []

    def on_start(self, setting):
        self.heard.append("start")

    def on_round(self, record):
        self.heard.append(record["round"])
        return self.answer if record["round"] == self.at else None

    def on_end(self, summary, per_client):
        self.heard.append("end")

    def on_close(self):
        self.heard.append("close")


class EndsAt(fj.Observer):
    """Has one method, as a user writes it."""

    def __init__(self, number):
        self.number = number

    def on_round(self, record):
        return record["round"] >= self.number


def test_every_observer_is_called_in_order(config, federation):
    logs = [Log(), fj.Observer(), Log()]
    run(config, federation, logs)
    assert logs[0].heard == logs[2].heard == ["start", 1, 2, 3, 4, 5, "end", "close"]


@pytest.mark.parametrize(
    ("observer", "reason"),
    [(EndsAt(3), "EndsAt asked for it"), (Log(3, "good enough"), "good enough")],
)
def test_an_early_end_is_an_end_as_any_other(config, federation, tmp_path, observer, reason):
    result = run(config, federation, [observer, log := Log()], RunDirectory(tmp_path / "x"))
    assert log.heard == ["start", 1, 2, 3, "end", "close"]
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert (summary["rounds"], summary["planned_rounds"]) == (3, 5)
    assert summary["ended_early"] == reason
    assert summary["last"]["round"] == result.state.server == 3
    assert len((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()) == 3
    text = Terminal(width=100, record=True)
    text.print(closing(result.summary))
    assert f"ended after 3 of 5 rounds: {reason}" in text.export_text()


def test_it_equals_a_run_of_as_many_rounds(config, federation, tmp_path):
    early = run(config, federation, [EndsAt(3)], RunDirectory(tmp_path / "early"))
    config = dataclasses.replace(config, rounds=3)
    short = run(config, federation, (), RunDirectory(tmp_path / "short"))
    for name in ("ended_early", "planned_rounds"):
        del early.summary[name]
    assert_equal(early, short, tmp_path / "early", tmp_path / "short")


@pytest.mark.parametrize("answer", [None, False, ""])
def test_no_answer_lets_a_run_go_on(config, federation, answer):
    assert run(config, federation, [Log(2, answer)]).summary["rounds"] == 5


def test_who_asks_at_the_last_round_ends_nothing_early(config, federation):
    summary = run(config, federation, [EndsAt(5)]).summary
    assert summary["rounds"] == 5
    assert "ended_early" not in summary


def test_a_resumed_run_tells_of_the_rounds_before(config, federation, tmp_path):
    cut_off(config, federation, tmp_path / "x", 3)
    log = Log()
    run(config, federation, [log], RunDirectory(tmp_path / "x", True, str))
    assert log.heard == ["start", 1, 2, 3, 4, 5, "end", "close"]
    assert len((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()) == 5


def test_an_answer_is_not_lost_by_a_cut(config, federation, tmp_path):
    """Cut off after the round of the answer, and before the summary."""
    whole = run(config, federation, [EndsAt(3)], RunDirectory(tmp_path / "whole"))
    cut_off(config, federation, tmp_path / "cut", 3)
    cut = run(config, federation, [EndsAt(3)], RunDirectory(tmp_path / "cut", True, str))
    assert_equal(whole, cut, tmp_path / "whole", tmp_path / "cut")


def test_who_raises_is_named_and_all_are_closed(config, federation, tmp_path):
    class Broken(fj.Observer):
        def on_round(self, record):
            return record["absent"]

    with pytest.raises(KeyError, match="absent") as error:
        run(config, federation, [Broken(), log := Log()], RunDirectory(tmp_path / "x"))
    assert error.value.__notes__ == ["The observer Broken raised this."]
    assert log.heard == ["start", "close"]
    assert len((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "x" / "summary.json").exists()


@pytest.mark.slow
def test_a_comparison_has_observers_of_each_run(federation):
    made = {}

    def observers(config):
        made[config.method, config.seed] = log = Log()
        return [log]

    fj.compare(["popularity"], federation, seeds=2, observers=observers, top_k=3)
    assert {key: log.heard for key, log in made.items()} == {
        ("popularity", seed): ["start", 1, "end", "close"] for seed in (0, 1)
    }

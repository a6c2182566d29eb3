"""Runs that are cut off, resumed and compared."""

import copy
import dataclasses
import json
from functools import cache

import jax
import numpy as np
import pytest
from lab import assert_same
from toy import Toy, toy

from fedem_jax.config.base import INERT, Config
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.errors import Stopped
from fedem_jax.runs import train
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.simulation import Simulation

SAME = {name: getattr(Config, name) for name in INERT}


@cache
def compiled(config, federation):
    """The toy with its programs, which all tests share."""
    return Simulation(config, federation)


def run(config, federation, observers=(), directory=None, stop=lambda: 0, devices=()):
    """As `fedem_jax.runs.train.run`; the programs of the toy are compiled once for all tests."""
    if config.method != "toy" or federation is None:
        return train.run(config, federation, observers, directory, stop, devices)
    simulation = copy.copy(compiled(dataclasses.replace(config, **SAME), federation))
    simulation.config = config
    return train.run_simulation(simulation, observers, directory, stop)


def toys(monkeypatch, federation):
    """Settings of the toy, whose scores differ in each of 6 rounds."""
    scores = np.random.default_rng(0).normal(size=(6, 7, federation.num_items))
    monkeypatch.setitem(METHODS, "toy", Method(Toy, toy(scores)))
    return Toy(top_k=3, rounds=5, client_fraction=0.5)


class After:
    """Asks to stop once it was asked so many times."""

    def __init__(self, asked):
        self.left = asked

    def __call__(self):
        self.left -= 1
        return 15 * (self.left < 0)


def lines_of(path, name="metrics.jsonl"):
    """Without the only figure that may differ."""
    lines = [json.loads(line) for line in (path / name).read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


TIMES = ("compile_seconds", "seconds_per_round", "resumed")


def assert_equal(ours, theirs, *folders):
    """Two results, and what they left on disk."""
    assert_same(*(jax.tree.map(np.asarray, result.state) for result in (ours, theirs)))
    assert ours.per_client.equals(theirs.per_client)
    plain = [{k: v for k, v in r.summary.items() if k not in TIMES} for r in (ours, theirs)]
    assert plain[0] == plain[1]
    records = [[record | {"seconds": 0} for record in r.records] for r in (ours, theirs)]
    assert records[0] == records[1]
    names = {path.name for path in folders[0].iterdir()}
    assert names == {path.name for path in folders[1].iterdir()}
    for name in {"metrics.jsonl", "rho.jsonl"} & names:
        assert lines_of(folders[0], name) == lines_of(folders[1], name)


def cut_off(config, federation, path, *segments, resume=False, observers=(), devices=()):
    """A run that is stopped after so many segments, and again after so many more, ..."""
    for number in segments:
        directory = RunDirectory(path, resume, str)
        with pytest.raises(Stopped) as stopped:
            run(config, federation, observers, directory, After(number), devices)
        assert stopped.value.number == 15
        resume = True


def resumed(config, federation, path, devices=()):
    """The rest of a run, and the sentences about it."""
    said = []
    directory = RunDirectory(path, True, said.append)
    return run(config, federation, (), directory, devices=devices), said

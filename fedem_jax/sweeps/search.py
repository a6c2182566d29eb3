"""How a sweep finds its settings: all at once, by successive halving, or by Optuna."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.space import Setting
from fedem_jax.sweeps.suggest import suggestions


class Batch(NamedTuple):
    """Settings to run next."""

    settings: list[Setting]
    rounds: int
    """Total rounds of each after this batch."""
    survive: int = 0
    """How many of them may run on, so that their states are kept; 0: none."""


def batches(sweep: Sweep, results: TrialResults, at_once: int, study: str) -> Iterator[Batch]:
    """What to run, batch after batch. The caller records the results of each before the next.

    Args:
        sweep: the description.
        results: the results so far.
        at_once: number of settings that Optuna suggests before it gets their results.
        study: name of the search in a storage of Optuna.
    """
    if sweep.search == "optuna":
        for settings in suggestions(sweep, results, at_once, study):
            yield Batch(settings, sweep.config.rounds)
    elif sweep.halving:
        yield from halving_batches(sweep, results)
    else:
        yield Batch(sweep.settings(), sweep.config.rounds)


class Rung(NamedTuple):
    """A step of successive halving."""

    settings: int
    """Number of settings that run."""
    rounds: int
    """Total rounds of each."""


def rungs(settings: int, rounds: int, each: int, factor: int) -> list[Rung]:
    """The rungs of successive halving (Jamieson, Talwalkar, AISTATS 2016).

    In every rung the best 1/`factor` of the settings run `factor` times as many rounds as before.
    The last ones run all rounds.

    Args:
        settings: number of settings.
        rounds: rounds of a complete trial.
        each: rounds between two evaluations, and fewest rounds of the first rung.
        factor: at least 2.
    """
    steps = 0
    while settings > factor ** (steps + 1) and rounds >= each * factor ** (steps + 1):
        steps += 1
    ladder = []
    for step in range(steps + 1):
        share = factor ** (steps - step)
        total = min(rounds, each * math.ceil(rounds / share / each))
        ladder.append(Rung(math.ceil(settings / factor**step), total))
    return ladder


def halving_batches(sweep: Sweep, results: TrialResults) -> Iterator[Batch]:
    """A batch for each rung. Settings that diverged with any seed never run on."""
    left = sweep.settings()
    steps = rungs(len(left), sweep.config.rounds, sweep.config.eval_every, sweep.halving)
    survivors = [step.settings for step in steps[1:]] + [0]
    for (_, rounds), survive in zip(steps, survivors, strict=True):
        yield Batch(left, rounds, survive)
        numbers = [results.number_of(setting) for setting in left]
        values = {number: results.value(number, sweep.seeds, rounds) for number in numbers}
        sound = [number for number in numbers if values[number][0] > -math.inf]
        best = sorted(sound, key=lambda number: values[number], reverse=True)[:survive]
        left = [results.settings[number] for number in sorted(best)]
        if not left:
            return

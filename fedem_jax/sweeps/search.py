"""How a sweep finds its settings: all at once, by successive halving, or by Optuna."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from fedem_jax.errors import UserError
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.space import Setting, Values


class Batch(NamedTuple):
    """Settings to run next."""

    settings: list[Setting]
    rounds: int
    """Total rounds of each after this batch."""
    survive: int = 0
    """How many of them may run on, so that their states are kept; 0: none."""


def batches(sweep: Sweep, results: TrialResults, at_once: int) -> Iterator[Batch]:
    """What to run, batch after batch. The caller records the results of each before the next.

    Args:
        sweep: the description.
        results: the results so far.
        at_once: number of settings that Optuna suggests before it gets their results.
    """
    if sweep.search == "optuna":
        yield from optuna_batches(sweep, results, at_once)
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


def optuna_batches(sweep: Sweep, results: TrialResults, at_once: int) -> Iterator[Batch]:
    """Settings that Optuna (Akiba et al., KDD 2019) suggests, `at_once` in a batch.

    Its tree-structured Parzen estimator gets their mean validation metric over the seeds. The same
    search seed and results lead to the same suggestions. So an interrupted search repeats its
    finished trials without running them, and continues from there.

    Raises:
        UserError: Optuna is missing.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "search: optuna is not installed; pip install 'fedem_jax[search]', or give --search "
            "random."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=sweep.search_seed, n_startup_trials=max(10, at_once))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {values.name: _distribution(optuna, values) for values in sweep.varied}
    for start in range(0, sweep.trials, at_once):
        suggested = [study.ask(space) for _ in range(min(at_once, sweep.trials - start))]
        settings = [_setting(sweep, trial.params) for trial in suggested]
        distinct = [s for n, s in enumerate(settings) if s not in settings[:n]]
        yield Batch(distinct, sweep.config.rounds)
        for trial, setting in zip(suggested, settings, strict=True):
            number = results.number_of(setting)
            value, _ = results.value(number, sweep.seeds, sweep.config.rounds)
            if value > -math.inf:
                study.tell(trial, value)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _distribution(optuna: Any, values: Values) -> Any:
    """Optuna's form of a range; of listed values, that of their indices."""
    kinds = optuna.distributions
    if values.listed:
        return kinds.CategoricalDistribution(range(len(values.listed)))
    if values.whole:
        return kinds.IntDistribution(round(values.low), round(values.high), log=values.log)
    return kinds.FloatDistribution(values.low, values.high, log=values.log)


def _setting(sweep: Sweep, params: dict[str, Any]) -> Setting:
    return {
        values.name: values.listed[params[values.name]] if values.listed else params[values.name]
        for values in sweep.varied
    }

"""How a sweep finds the settings that it runs: all of them, rung by rung, or asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from fedem_jax.errors import UserError
from fedem_jax.sweep.description import Sweep
from fedem_jax.sweep.results import TrialResults
from fedem_jax.sweep.space import Setting, Values


class Batch(NamedTuple):
    """Settings to be run next."""

    settings: list[Setting]
    rounds: int
    """Rounds that they are to have behind them then."""
    survive: int = 0
    """How many of them may go on, so that their states are worth keeping; 0: none."""


def batches(wanted: Sweep, ledger: TrialResults, at_once: int) -> Iterator[Batch]:
    """What to run, batch after batch; what came of one stands in the ledger when the next is asked
    for.

    Args:
        wanted: the sweep.
        ledger: what is known so far.
        at_once: settings that Optuna is asked for before it is told of them.
    """
    if wanted.search == "optuna":
        yield from asked(wanted, ledger, at_once)
    elif wanted.halving:
        yield from halved(wanted, ledger)
    else:
        yield Batch(wanted.settings(), wanted.config.rounds)


class Rung(NamedTuple):
    """A step of successive halving."""

    settings: int
    """How many run."""
    rounds: int
    """How far."""


def rungs(settings: int, rounds: int, each: int, factor: int) -> list[Rung]:
    """Successive halving (Jamieson, Talwalkar, AISTATS 2016): in every rung the best 1/`factor` of
    the settings run `factor` times as many rounds as before, the last ones to their end.

    Args:
        settings: how many there are.
        rounds: of a trial that runs to its end.
        each: rounds between two evaluations; the first rung has at least so many.
        factor: at least 2.
    """
    steps = 0
    while settings > factor ** (steps + 1) and rounds >= each * factor ** (steps + 1):
        steps += 1
    found = []
    for step in range(steps + 1):
        share = factor ** (steps - step)
        far = min(rounds, each * math.ceil(rounds / share / each))
        found.append(Rung(math.ceil(settings / factor**step), far))
    return found


def halved(wanted: Sweep, ledger: TrialResults) -> Iterator[Batch]:
    """The rungs of successive halving. Settings that diverged with any seed never go on."""
    left = wanted.settings()
    steps = rungs(len(left), wanted.config.rounds, wanted.config.eval_every, wanted.halving)
    survivors = [step.settings for step in steps[1:]] + [0]
    for (_, rounds), survive in zip(steps, survivors, strict=True):
        yield Batch(left, rounds, survive)
        values = {
            ledger.number_of(setting): ledger.value(ledger.number_of(setting), wanted.seeds, rounds)
            for setting in left
        }
        sound = [number for number, value in values.items() if value[0] > -math.inf]
        best = sorted(sound, key=lambda number: values[number], reverse=True)[:survive]
        left = [ledger.settings[number] for number in sorted(best)]
        if not left:
            return


def asked(wanted: Sweep, ledger: TrialResults, at_once: int) -> Iterator[Batch]:
    """Settings that Optuna (Akiba et al., KDD 2019) asks for, so many at once, by its
    tree-structured Parzen estimator; it is told their mean validation metric over the seeds.

    The same search seed and the same answers bring the same questions, so that a search that was
    cut off runs what is in the ledger already in no time, and goes on from there.

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
    sampler = optuna.samplers.TPESampler(seed=wanted.search_seed, n_startup_trials=max(10, at_once))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {values.name: _distribution(optuna, values) for values in wanted.varied}
    for start in range(0, wanted.trials, at_once):
        number = min(at_once, wanted.trials - start)
        questions = [study.ask(space) for _ in range(number)]
        settings = [_setting(wanted, question.params) for question in questions]
        distinct = [s for n, s in enumerate(settings) if s not in settings[:n]]
        yield Batch(distinct, wanted.config.rounds)
        for question, setting in zip(questions, settings, strict=True):
            place = ledger.number_of(setting)
            value, _ = ledger.value(place, wanted.seeds, wanted.config.rounds)
            if value > -math.inf:
                study.tell(question, value)
            else:
                study.tell(question, state=optuna.trial.TrialState.FAIL)


def _distribution(optuna: Any, values: Values) -> Any:
    """Ranges as they are; listed values by their place among them."""
    if values.listed:
        return optuna.distributions.CategoricalDistribution(range(len(values.listed)))
    kind = optuna.distributions.FloatDistribution
    if values.whole:
        kind = optuna.distributions.IntDistribution
        return kind(round(values.low), round(values.high), log=values.log)
    return kind(values.low, values.high, log=values.log)


def _setting(wanted: Sweep, params: dict[str, Any]) -> Setting:
    return {
        values.name: values.listed[params[values.name]] if values.listed else params[values.name]
        for values in wanted.varied
    }

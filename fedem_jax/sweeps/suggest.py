"""Settings that Optuna suggests (Akiba et al., KDD 2019), for one process or for shards.

Its tree-structured Parzen estimator gets their mean validation metric over the seeds. Shards share
the trials of all in a storage: a journal, which any shared folder can hold, or a database.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedem_jax.errors import UserError, in_short
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.results import TrialResults
from fedem_jax.sweeps.shards import JOURNAL, Shard, without_password
from fedem_jax.sweeps.space import Setting, Values

SHARD = "shard"
"""Attribute of a trial in a storage: the shard that asked for it."""
WAITS, FROM_DATABASE = (0.5, 1.0, 2.0), ("IntegrityError", "OperationalError", "ProgrammingError")
"""Seconds before a database is opened again, and errors after which it is: those that shards which
start at once give each other, as all make its tables."""


def suggestions(
    sweep: Sweep, results: TrialResults, at_once: int, name: str
) -> Iterator[list[Setting]]:
    """Lists of settings, `at_once` in each. The caller records the results of each before the next.

    The same search seed and results lead to the same suggestions. So an interrupted search repeats
    its finished trials without running them, and continues from there. A shard begins with the
    trials that it had asked for before it was interrupted, which the storage knows.

    Args:
        sweep: the description.
        results: the results so far.
        at_once: number of settings that are suggested before their results are told.
        name: of the search in a storage.

    Raises:
        UserError: Optuna is missing, or the storage cannot be used.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "search: optuna is not installed; pip install 'fedem_jax[search]', or give --search "
            "random."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    running, failed = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.FAIL
    shard, seed, before = sweep.shard or Shard(1, 1), sweep.search_seed, []
    number = len(shard.cut(range(sweep.trials)))
    study = _study(optuna, sweep.storage, name)
    if sweep.storage:
        every = study.get_trials(deepcopy=False)
        before = [trial for trial in every if trial.user_attrs.get(SHARD) == str(shard)]
        entropy = [seed, shard.number, len(before)]  # no draw comes twice
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    startup = max(10, at_once)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    space = {values.name: _distribution(optuna, values) for values in sweep.varied}
    for start in range(0, max(number, len(before)), at_once):
        asked = before[start : start + at_once]
        for _ in range(min(start + at_once, number) - start - len(asked)):
            trial = study.ask(space)
            trial.set_user_attr(SHARD, str(shard))
            asked.append(trial)
        settings = [_setting(sweep, trial.params) for trial in asked]
        yield [s for n, s in enumerate(settings) if s not in settings[:n]]
        for trial, setting in zip(asked, settings, strict=True):
            if getattr(trial, "state", running) != running:
                continue
            value, _ = results.value(results.number_of(setting), sweep.seeds, sweep.config.rounds)
            if value > -math.inf:
                study.tell(trial.number, value)
            else:
                study.tell(trial.number, state=failed)


def _study(optuna: Any, storage: str, name: str) -> Any:
    """The search of a name in a storage, made if it is absent; without a storage a new one.

    Raises:
        UserError: the storage cannot be opened, or the driver of its database is missing.
    """
    waits = list(WAITS)
    while True:
        try:
            opened = storage or None
            if storage.endswith(JOURNAL):
                backend = optuna.storages.journal.JournalFileBackend(storage)
                opened = optuna.storages.JournalStorage(backend)
            return optuna.create_study(
                study_name=name, storage=opened, direction="maximize", load_if_exists=True
            )
        except ImportError as error:
            driver = getattr(error.__cause__, "name", None) or "of its driver"
            raise UserError(
                f"storage: {without_password(storage)} needs the Python package {driver}, which is "
                "not installed; install it, or give the path of a file that ends in .journal."
            ) from None
        except Exception as error:
            if not waits or type(error).__name__ not in FROM_DATABASE:
                raise UserError(
                    f"storage: {without_password(storage)} cannot be opened ({in_short(error)}); "
                    "give the path of a file that ends in .journal, or the URL of a database that "
                    "Optuna reaches."
                ) from None
        time.sleep(waits.pop(0))


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

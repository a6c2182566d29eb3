"""Every method that trains by samples trains by the loss that its settings name."""

from functools import partial

import jax
import numpy as np
import pytest
from lab import Lab, config_of, differs
from toy import small_federation

from fedem_jax.config.registry import METHODS
from fedem_jax.config.shared import SampledClients
from fedem_jax.models.scoring import LossOfBatch
from fedem_jax.runs.simulation import Simulation

SAMPLED = [name for name, (kind, _) in METHODS.items() if issubclass(kind, SampledClients)]


def test_all_methods_but_those_without_samples_have_a_loss():
    assert set(METHODS) - set(SAMPLED) == {"fcf", "ease", "item-knn", "popularity", "central-mf"}


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.slow_but("fedmf")
def test_two_rounds_of_softmax_are_finite(method):
    lab = Lab(config_of(method, loss="softmax"))
    state, info, ranks = lab.run(rounds=2)
    trained = info.epochs > 0
    assert trained.any()
    assert np.isfinite(info.loss[trained]).all()
    assert ranks.finite.all()
    assert differs(state, lab.start)


@pytest.mark.parametrize("method", SAMPLED)
def test_a_round_asks_the_loss_that_the_settings_name(method, monkeypatch):
    asked, ask = set(), LossOfBatch.__call__

    def noted(self, *args):
        asked.add(self.loss.__name__)
        return ask(self, *args)

    monkeypatch.setattr(LossOfBatch, "__call__", noted)
    config = config_of(method, loss="bpr")
    simulation = Simulation(config, small_federation(), jax.devices()[:1])
    key, *_, hyper = simulation.unchanging
    start = jax.eval_shape(simulation.algorithm.init, key, hyper)
    jax.eval_shape(partial(simulation._rounds, 1), start, 0, *simulation.unchanging)
    assert asked == {"bpr_loss"}

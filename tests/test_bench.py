"""The benchmark measures what it says: its phases make up the round, and its sequential twin is
the same method."""

import jax
import jax.numpy as jnp
import numpy as np
import phases
import pytest
import sequential
from toy import small_federation

from fedem_jax.settings import FedEM
from fedem_jax.train import Trial


@pytest.fixture(scope="module")
def trial() -> Trial:
    config = FedEM(
        dim=4, batch_size=16, local_epochs=3, bce="logit", aggregation_fraction=0.5, size_classes=1
    )
    return Trial(config, small_federation(clients=8))


@pytest.fixture(scope="module")
def rounds(trial):
    """State before and after round 1, in which some merge, as the compiled round has it."""
    segment = trial.segment(trial.init(), 1)
    before = segment(trial.init(), 0).state
    kept = jax.tree.map(np.asarray, before)
    return kept, segment(before, 1)


def test_phases_make_up_the_round(trial, rounds):
    parts = phases.phases(trial, trial.init())
    clients, _ = parts.train(trial.init(), 0)
    state = parts.aggregate(clients, 0)
    parts.draws(state, 1)
    clients, info = parts.train(state, 1)
    state = parts.aggregate(clients, 1)
    ranks = parts.evaluate(state)
    expected = rounds[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state, expected.state)
    np.testing.assert_allclose(info.loss, expected.info.loss[0], atol=1e-6)
    np.testing.assert_array_equal(ranks.test, expected.ranks.test)


@pytest.mark.parametrize("merges", [False, True])
def test_sequential_twin_is_the_same_method(trial, rounds, merges):
    before, after = rounds
    client = int(np.flatnonzero((trial.by_client(before.clients.slot) >= 0) == merges)[0])
    place = int(trial.layout.place[client])
    drawn = sequential.drawer(trial)(client, 1)
    ours = sequential.Sequential(trial.config).train(
        **phases.parameters(trial, before, client), drawn=drawn
    )
    theirs = jax.tree.map(lambda leaf: leaf[place], after.state.clients)
    assert ours.epochs == after.info.epochs[0, place]
    assert ours.loss == pytest.approx(float(after.info.loss[0, place]), abs=1e-5)
    np.testing.assert_allclose(ours.items, theirs.items, atol=1e-4)
    for a, b in zip(jax.tree.leaves(ours.adapter), jax.tree.leaves(theirs.adapter), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert jnp.allclose(ours.private["user"], theirs.private["user"], atol=1e-4)

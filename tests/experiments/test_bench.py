"""The benchmark measures what it says: its phases make up the round, and its sequential twin is
the same method."""

import jax
import jax.numpy as jnp
import numpy as np
import phases
import pytest
import sequential
from bench_tables import draw_scaling
from pictures import curve, key
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.runs.simulation import Simulation


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    config = FedEM(
        dim=4, batch_size=16, local_epochs=3, bce="logit", aggregation_fraction=0.5, size_classes=1
    )
    return Simulation(config, small_federation(clients=8))


@pytest.fixture(scope="module")
def rounds(simulation):
    """State before and after round 1, in which some merge, as the compiled round has it."""
    segment = simulation.segment(simulation.init(), 1)
    before = segment(simulation.init(), 0).state
    kept = jax.tree.map(np.asarray, before)
    return kept, segment(before, 1)


@pytest.mark.slow
def test_phases_make_up_the_round(simulation, rounds):
    parts = phases.phases(simulation, simulation.init())
    state = simulation.init()
    clients, _ = parts.train(state, 0)
    state = parts.aggregate(state._replace(clients=clients), 0)
    parts.draws(state, 1)
    clients, info = parts.train(state, 1)
    state = parts.aggregate(state._replace(clients=clients), 1)
    ranks = parts.evaluate(state)
    expected = rounds[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state, expected.state)
    np.testing.assert_allclose(info.loss, expected.info.loss[0], atol=1e-6)
    np.testing.assert_array_equal(ranks.test, expected.ranks.test)


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.slow
def test_sequential_twin_is_the_same_method(simulation, rounds, merges):
    before, after = rounds
    client = int(np.flatnonzero((simulation.by_client(before.clients.slot) >= 0) == merges)[0])
    place = int(simulation.layout.place[client])
    drawn = sequential.drawer(simulation)(client, 1)
    ours = sequential.Sequential(simulation.config).train(
        **phases.parameters(simulation, before, client), drawn=drawn
    )
    theirs = jax.tree.map(lambda leaf: leaf[place], after.state.clients)
    assert ours.epochs == after.info.epochs[0, place]
    assert ours.loss == pytest.approx(float(after.info.loss[0, place]), abs=1e-5)
    np.testing.assert_allclose(ours.items, theirs.items, atol=1e-4)
    for a, b in zip(jax.tree.leaves(ours.adapter), jax.tree.leaves(theirs.adapter), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert jnp.allclose(ours.private["user"], theirs.private["user"], atol=1e-4)


def test_the_picture_of_scaling_is_that_of_the_rows(tmp_path, pictures):
    def row(clients, seconds):
        return {"clients": clients, "round": seconds, "machine": "a machine"}

    rows = [
        ("100 clients, fedem", row(100, 0.2)), ("1000 clients, fedem", row(1000, 1.5)),
        ("50 clients, fedmf", row(50, 0.1)), ("9 clients, fedem", {"refused": "too few"}),
    ]  # fmt: skip
    draw_scaling(rows, tmp_path / "scaling.png")
    figure = pictures["scaling.png"]
    (panel,) = figure.axes
    assert figure.get_suptitle() == "Seconds per round against clients"
    assert "a machine" in figure.get_supxlabel()
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("clients", "seconds per round")
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert [line.get_label() for line in panel.lines] == ["fedem", "fedmf", "slope 1"]
    assert list(key(panel.get_legend())) == ["fedem", "fedmf", "slope 1"]
    fedem, fedmf, slope = map(curve, panel.lines)
    assert fedem == ([100, 1000], [0.2, 1.5])
    assert fedmf == ([50], [0.1])
    assert slope == ([50, 1000], pytest.approx([0.075, 1.5]))

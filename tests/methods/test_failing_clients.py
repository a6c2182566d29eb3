"""Uploads that never arrive, and clients that run only a part of their epochs.

The loops over clients, with failing ones, are beside those of each method.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import Lab, assert_same, config_of, differs
from replay import arrived_in, draws_of
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.registry import METHODS
from fedem_jax.config.settings import FedMF
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run

LOSSY = [name for name, (kind, _) in METHODS.items() if "dropout" not in kind().refusals()]
"""Methods that may lose uploads."""


@pytest.fixture(scope="module")
def lossy():
    return Lab(config_of("fedmf", dropout=0.4))


@pytest.mark.slow
def test_a_share_that_is_no_whole_client_changes_no_bit(labs, lossy):
    rounded = Lab(config_of("fedmf", dropout=0.1))  # of six
    assert rounded.simulation.config.round_sizes(7) == (6, 6)
    plain = labs("fedmf").run()
    assert_same(rounded.run(), plain)
    assert differs(lossy.run()[0], plain[0])


def test_all_participants_train_and_keep_what_is_theirs(labs, lossy):
    """In the first round they start from the same table, so that nothing else is to differ."""
    plain, _, _ = jax.tree.map(np.asarray, labs("fedmf").segment(lossy.start, 0))
    state, info, _ = jax.tree.map(np.asarray, lossy.segment(lossy.start, 0))
    assert (info.epochs[0] > 0).sum() == 6 > len(arrived_in(lossy.simulation, 0)) == 4
    assert_same(state.clients, plain.clients)
    assert differs(state.server, plain.server)


def test_others_are_lost_in_another_round_and_with_another_seed(lossy):
    simulation = lossy.simulation
    lost = {tuple(arrived_in(simulation, number)) for number in range(6)}
    assert len(lost) > 3
    simulation = Simulation(
        dataclasses.replace(simulation.config, seed=1), small_federation(), jax.devices()[:1]
    )
    others = [tuple(arrived_in(simulation, number)) for number in range(6)]
    assert others != [tuple(arrived_in(lossy.simulation, number)) for number in range(6)]


def test_a_client_of_fedem_whose_upload_is_lost_is_served_nothing():
    simulation = Simulation(config_of("fedem", dropout=0.3), small_federation(), jax.devices()[:1])
    full = Simulation(config_of("fedem"), small_federation(), jax.devices()[:1])
    state = jax.eval_shape(
        simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
    )
    assert len(state.server.items) == 3
    draws, more = (
        each.draws(each.key_draws, jnp.int32(0), each.lists) for each in (simulation, full)
    )
    served = draws.uploaders(draws.participants())
    np.testing.assert_array_equal(served, more.uploaders(more.participants())[:3])


@pytest.mark.parametrize("name", LOSSY)
def test_what_does_not_arrive_is_counted_as_sent_down_and_not_up(name):
    """FedEM and FedCA serve those whose upload arrives, and CoFedRec a group of them."""
    full, some = (
        Simulation(config_of(name, dropout=share), small_federation(), jax.devices()[:1])
        for share in (0.0, 0.34)
    )
    (_, all_of_them), (_, arrived) = (each.config.round_sizes(7) for each in (full, some))
    assert (all_of_them, arrived) in ((6, 4), (4, 3))
    up, down = some.algorithm.traffic
    assert up * all_of_them == full.algorithm.traffic.up * arrived
    if name in ("fedem", "fedca"):
        assert down * all_of_them == full.algorithm.traffic.down * arrived
    elif name != "cofedrec":
        assert down == full.algorithm.traffic.down


def test_at_least_one_arrives():
    assert FedMF(dropout=0.9).round_sizes(10) == (10, 1)
    assert FedMF(dropout=0.9).round_sizes(3) == (3, 1)
    assert FedMF(dropout=0.9).round_sizes(1) == (1, 1)
    assert FedEM(dropout=0.29, aggregation_fraction=1.0).round_sizes(100) == (100, 71)


def test_a_record_says_how_many_are_lost():
    few = {"rounds": 1, "dim": 2, "local_epochs": 1, "top_k": 3}
    (record,) = run(FedMF(**few, dropout=0.3), small_federation()).records
    assert record["dropped"] == 2
    (record,) = run(FedMF(**few), small_federation()).records
    assert "dropped" not in record


@pytest.mark.parametrize("name", [name for name in METHODS if name not in LOSSY])
def test_a_method_that_cannot_lose_an_upload_says_so(name):
    with pytest.raises(UserError, match=rf"dropout: {name} .*; give 0\."):
        METHODS[name].settings(dropout=0.2)


# --- stragglers -----------------------------------------------------------------------------------

SLOW = [
    name for name, (kind, _) in METHODS.items()
    if "stragglers" not in kind(local_epochs=3).refusals()
]  # fmt: skip
"""Methods whose clients run epochs."""


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.slow_but("fedem")
def test_clients_run_the_epochs_that_are_drawn_for_them(name):
    """In the second round some clients of FedEM merge."""
    lab = Lab(config_of(name, local_epochs=3, stragglers=0.6, threshold=0.0, block_size=3))
    _, info, _ = jax.tree.map(np.asarray, lab.segment(lab.start, 0, length=2))
    parts = set()
    for number in range(2):
        drawn = draws_of(lab.simulation, number)
        expected = [len(drawn[u].orders) if u in drawn else 0 for u in range(7)]
        np.testing.assert_array_equal(info.epochs[number], expected)
        parts |= set(expected)
    assert parts >= {1, 2, 3}


@pytest.mark.slow
def test_whoever_has_time_for_all_epochs_is_not_changed(labs):
    lab = Lab(config_of("local-only", stragglers=0.3))
    drawn = draws_of(lab.simulation, 0)
    punctual = [u for u in drawn if len(drawn[u].orders) == 3]
    assert 0 < len(punctual) < len(drawn)
    ours, theirs = (
        jax.tree.map(lambda leaf: np.asarray(leaf)[punctual], each.segment(lab.start, 0)[0].clients)
        for each in (lab, labs("local-only"))
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("method", "settings", "why"),
    [
        ("fcf", {}, "a closed form has no epochs"),
        (
            "fedem",
            {"local_optimiser": "closed-form", "merging": "once"},
            "a closed form has no epochs",
        ),
        ("pfedrec", {"local_epochs": 1}, "one local epoch has no parts"),
        ("central-mf", {}, "all data lie in one place"),
        ("ease", {}, "all data lie in one place"),
    ],
)
def test_where_there_is_no_part_of_the_epochs_none_is_drawn(method, settings, why):
    with pytest.raises(UserError, match=rf"stragglers: {method} .*{why}; give 0\."):
        METHODS[method].settings(stragglers=0.5, **settings)

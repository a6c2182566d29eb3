"""What the bottleneck and the histograms of rho report is what a loop over clients finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from replay import draws_of
from toy import small_federation

from fedem_jax import bottleneck
from fedem_jax.bottleneck import STAGES, distances, heterogeneity_of, in_rows, reader
from fedem_jax.bottleneck_report import fitted, points
from fedem_jax.errors import UserError
from fedem_jax.rho import SHAPE, counter, in_order, quantiles
from fedem_jax.settings import FedEM
from fedem_jax.train import Trial

CLIENTS = 9


@pytest.fixture(scope="module")
def trial() -> Trial:
    config = FedEM(
        dim=3, batch_size=16, local_epochs=2, bce="logit", aggregation_fraction=0.6, size_classes=1
    )
    return Trial(config, small_federation(clients=CLIENTS))


@pytest.fixture(scope="module")
def state(trial):
    """After two rounds, so that adapters have moved."""
    state, segment = trial.init(), trial.segment(trial.init(), 1)
    for number in range(2):
        state, *_ = segment(state, number)
    return state


@pytest.fixture(scope="module")
def tables(trial, state):
    """By client: user vector, and the three tables; None for those that were not served."""
    clients, server = jax.tree.map(np.asarray, state)
    share = jax.jit(trial.algorithm.elastic.share)
    found = {}
    for client, place in enumerate(trial.layout.place):
        slot, own = clients.slot[place], clients.items[place]
        if slot < 0:
            found[client] = None
            continue
        rho = np.asarray(share(state, jnp.array([place]), trial.algorithm.hyper))[0]
        target = server.items[slot]
        user = clients.private["user"][place]
        found[client] = user, rho, (own, target, own + rho[:, None] * (target - own))
    return found


def test_each_table_is_ranked_and_has_its_loss(trial, state, tables):
    rows = in_rows(trial, 2, reader(trial)(state, 2)).set_index("client")
    assert (rows["round"] == 2).all()
    assert list(rows.index) == [client for client, found in tables.items() if found]
    drawn, federation = draws_of(trial, 2), trial.federation
    for client, row in rows.iterrows():
        user, _, of_stage = tables[client]
        for stage, table in zip(STAGES, of_stage, strict=True):
            logits = table.astype(float) @ user.astype(float)
            asked = logits[federation.test_candidates[client]]
            assert row[f"rank {stage}"] == 1 + (asked >= logits[federation.test_item[client]]).sum()
            sign = np.where(drawn[client].labels > 0, -1, 1)
            loss = np.logaddexp(0, sign * logits[drawn[client].items]).mean()
            assert row[f"loss {stage}"] == pytest.approx(loss, rel=1e-4)
    assert (rows["loss local"] != rows["loss replaced"]).sum() > 2


def test_distances_are_over_the_own_items(trial, state, tables):
    optimum = np.random.default_rng(0).normal(size=state.clients.items.shape).astype(np.float32)
    served, apart = distances(trial, state, optimum)
    for client, place in enumerate(trial.layout.place):
        assert served[place] == (tables[client] is not None)
        if tables[client] is None:
            continue
        items = np.unique(trial.federation.train_items(client))
        for table, found in zip(tables[client][2], apart[:, place], strict=True):
            gap = np.linalg.norm((table - optimum[place])[items], axis=1)
            assert found == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-4)


def test_heterogeneity_leaves_the_client_itself_out():
    federation = small_federation()
    optimum = np.random.default_rng(1).normal(size=(7, federation.num_items, 3))
    own = [set(federation.train_items(client).tolist()) for client in range(7)]
    for client, found in enumerate(heterogeneity_of(federation, optimum)):
        squares = []
        for item in own[client]:
            others = [optimum[v, item] for v in range(7) if v != client and item in own[v]]
            if others:
                squares.append(np.sum((optimum[client, item] - np.mean(others, axis=0)) ** 2))
        assert found == pytest.approx(np.sqrt(np.mean(squares)))


def test_a_whole_measurement(trial):
    config = FedEM(
        dim=3,
        rounds=2,
        local_epochs=1,
        aggregation_fraction=1.0,
        size_classes=1,
        merging="0.5",
        top_k=3,
    )
    found = bottleneck.bottleneck(config, small_federation(), alone=2)
    assert found.rounds.groupby("round").size().to_dict() == {1: 7, 2: 7}
    assert found.clients.notna().all(axis=None)
    assert (found.clients["distance replaced"] != found.clients["distance local"]).any()
    assert 0 < found.settled < 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="merging: none"):
        bottleneck.bottleneck(FedEM(merging="none"))
    with pytest.raises(UserError, match="alone: 1"):
        bottleneck.bottleneck(FedEM(), alone=1)


def test_rho_is_counted_by_activity_popularity_and_own_items(trial, state, tables):
    count = counter(trial.algorithm, trial.federation, trial.layout, trial.lists)
    federation = trial.federation
    activity = in_order(np.diff(federation.offsets), SHAPE[0])
    popularity = in_order(np.bincount(federation.items, minlength=federation.num_items), SHAPE[1])
    expected = np.zeros(SHAPE, int)
    for client, found in tables.items():
        if found is None:
            continue
        known = np.isin(np.arange(federation.num_items), federation.train_items(client))
        level = np.minimum((found[1] * SHAPE[3]).astype(int), SHAPE[3] - 1)
        np.add.at(expected, (activity[client], popularity, known.astype(int), level), 1)
    np.testing.assert_array_equal(count(state), expected)
    assert (expected.sum(axis=(0, 1, 2)) > 0).sum() > 1  # not all of one kind


def test_a_constant_rho_is_not_counted():
    trial = Trial(FedEM(dim=2, merging="0.5"), small_federation())
    assert counter(trial.algorithm, trial.federation, trial.layout, trial.lists) is None


def test_groups_have_about_the_same_size():
    groups = in_order(np.array([5, 1, 9, 7, 3, 3, 8]), 3)
    assert sorted(np.bincount(groups)) == [2, 2, 3]
    assert groups[1] == 0
    assert groups[2] == 2


def test_quantiles_of_a_histogram():
    values = np.random.default_rng(2).beta(2, 5, size=20_000)
    counts = np.stack([np.histogram(values, 20, (0, 1))[0], np.zeros(20, int)])
    found = quantiles(counts, (0.25, 0.5, 0.9))
    np.testing.assert_allclose(found[0], np.quantile(values, (0.25, 0.5, 0.9)), atol=0.01)
    assert np.isnan(found[1]).all()


def test_a_fitted_line_and_its_band():
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 10, 400)
    line = fitted(x, 2 - 0.3 * x + rng.normal(0, 0.5, 400))
    assert line.slope.low < -0.3 < line.slope.high
    assert line.slope.high - line.slope.low < 0.1
    assert (line.low <= line.y).all()
    assert (line.y <= line.high).all()
    assert np.isnan(fitted(np.ones(5), np.ones(5)).slope.mean)


def test_what_replacing_costs_is_more_loss_and_less_quality():
    clients = pd.DataFrame(
        {"history": [10, 100], "heterogeneity": [1.0, np.nan], "loss local": [0.2, 0.3],
         "loss replaced": [0.5, 0.3], "ndcg local": [1.0, 0.0], "ndcg replaced": [0.4, 0.0]}
    )  # fmt: skip
    x, y = points(clients, "ndcg", "history")
    np.testing.assert_allclose(x, [1, 2])
    np.testing.assert_allclose(y, [0.6, 0])
    x, y = points(clients, "loss", "heterogeneity")
    np.testing.assert_allclose([x, y], [[1], [0.3]])

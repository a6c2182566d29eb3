"""Tables of cohorts: against plain loops, at both ends, and refused where there are none."""

import jax.numpy as jnp
import numpy as np
import pytest
from toy import small_federation

import fedem_jax as fj
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.protocol import preset
from fedem_jax.errors import UserError
from fedem_jax.server.cohorts import cohort_tables, fitted_share

COHORT = np.array([0, 2, 0, 2, 2, 0])
"""Of six uploads; cohort 1 has none."""


@pytest.fixture
def uploads():
    draw = np.random.default_rng(0)
    shares = draw.random(6)
    return draw.normal(size=(6, 5, 3)), shares / shares.sum()


def plain_means(tables, shares):
    common = sum(share * table for share, table in zip(shares, tables, strict=True))
    means = [common] * 3
    for k in (0, 2):
        weights = shares * (k == COHORT) / shares[k == COHORT].sum()
        means[k] = sum(weight * table for weight, table in zip(weights, tables, strict=True))
    return np.array(means), common


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_tables_are_drawn_to_the_common_one(uploads, share):
    means, common = plain_means(*uploads)
    found = cohort_tables(*map(jnp.float32, uploads), jnp.asarray(COHORT), 3, jnp.float32(share))
    np.testing.assert_allclose(found, means + share * (common - means), atol=1e-6)


def test_the_fitted_share_equals_a_plain_loop(uploads):
    tables, shares = uploads
    tables[:, 3] += 5 * COHORT[:, None]  # a row in which cohorts differ
    tables[:, 4] = 1  # and one in which nobody does
    means, common = plain_means(tables, shares)
    expected = np.ones((3, 5))
    for row in range(5):
        squares = free = 0.0
        weight = {}
        for k in (0, 2):
            within = shares[k == COHORT] / shares[k == COHORT].sum()
            off = tables[k == COHORT, row] - means[k, row]
            squares += sum(within * (off**2).mean(axis=1))
            weight[k] = sum(within**2)
            free += 1 - weight[k]
        error = {k: squares / free * weight[k] for k in (0, 2)}
        centre = (means[0, row] + means[2, row]) / 2
        between = sum(((means[k, row] - centre) ** 2).mean() for k in (0, 2))
        wanted = max(0.0, between - sum(error.values()) / 2)
        for k in (0, 2):
            total = error[k] + wanted
            expected[k, row] = error[k] / total if total > 1e-12 else 1.0
    found = np.asarray(
        cohort_tables(*map(jnp.float32, (tables, shares)), jnp.asarray(COHORT), 3, None)
    )
    used = expected[[0, 2], :4]
    drawn = means[[0, 2], :4] + used[..., None] * (common[:4] - means[[0, 2], :4])
    np.testing.assert_allclose(found[[0, 2], :4], drawn, atol=1e-5)
    np.testing.assert_allclose(found[:, 4], 1, atol=1e-6)
    np.testing.assert_allclose(found[1, :4], common[:4], atol=1e-5)
    assert used[0, 3] < 0.2  # where cohorts differ, they keep their own row


def test_a_cohort_of_one_upload_says_nothing_of_the_spread():
    tables = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 3)), jnp.float32)
    share = fitted_share(tables, jnp.ones(2), jnp.arange(2), tables, jnp.full(2, 0.5))
    np.testing.assert_allclose(share, 0, atol=1e-6)


# --- the method -----------------------------------------------------------------------------------

SETTINGS = {
    "rounds": 2, "top_k": 5, "dim": 3, "local_epochs": 1, "aggregation_fraction": 1.0,
    "merging": "replace", "keep": "none",
}  # fmt: skip


def test_each_client_gets_the_mean_of_its_cohort():
    federation = small_federation(clients=8)
    config = FedEM(aggregation="cohort", common_share=0, **SETTINGS)
    result = fj.run(config, federation)
    state, place = result.state, result.layout.place
    tables, samples = np.asarray(state.clients.items)[place], 5 * np.diff(federation.offsets)
    assert len(set(federation.cohort)) == 2
    for k in set(federation.cohort):
        mine = federation.cohort == k
        mean = np.tensordot(samples[mine] / samples[mine].sum(), tables[mine], 1)
        np.testing.assert_allclose(state.server.items[k], mean, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(state.clients.slot)[place], federation.cohort)


@pytest.mark.slow
def test_the_whole_common_share_is_one_table_for_all():
    federation = small_federation(clients=8)
    drawn = fj.run(FedEM(aggregation="cohort", common_share=1, **SETTINGS), federation)
    average = fj.run(FedEM(aggregation="avg", **SETTINGS), federation)
    for part in ("val", "test_full"):
        assert drawn.records[-1][part] == pytest.approx(average.records[-1][part])
    user, one = (each.state.clients.private["user"] for each in (drawn, average))
    np.testing.assert_allclose(user, one, atol=1e-5)
    for table in drawn.state.server.items:
        np.testing.assert_allclose(table, average.state.server.items, atol=1e-5)


def test_cohorts_must_be_declared():
    federation = fj.federation(
        {"user": np.repeat(range(9), 8), "item": np.tile(range(72), 1), "time": range(72)},
        preset("leak-free", num_candidates=5, min_interactions=3),
    )
    with pytest.raises(UserError, match=r"aggregation: cohort needs declared cohorts; .*--cohort"):
        fj.run(FedEM(aggregation="cohort", top_k=5), federation)


@pytest.mark.parametrize("share", ["1.5", "fited"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match=r"common_share: .*(weight|fitted)"):
        FedEM(common_share=share)

"""Real data on the map: the estimate of h, tags as cohorts, and what the map predicts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import real
from cells import Cell, federation
from heterogeneity import Wanted, estimate, heterogeneity, wanted

from fedem_jax.config.fedem import FedEM

CONFIG = FedEM(dim=4, local_epochs=1, local_optimiser="closed-form", merging="replace")


@pytest.mark.parametrize("h", [0.0, 0.3, 0.8])
def test_h_of_rows_that_were_drawn_with_it(h):
    rng = np.random.default_rng(0)
    clients, items, dim, groups = 600, 300, 4, 6
    group = np.arange(clients) % groups
    own = np.sqrt(h) * rng.standard_normal((groups, items, dim))
    row = np.sqrt(1 - h) * rng.standard_normal((items, dim))
    user = rng.standard_normal((clients, dim))
    noise = 4 * rng.standard_normal((clients, items))
    pull = np.einsum("ud,uid->ui", user, own[group]) + noise
    table = row + own.mean(0)  # the mean of the groups
    pull -= user @ own.mean(0).T
    common = ((table - table.mean(0)) ** 2).sum(1)
    found = heterogeneity(Wanted(pull, user, common, np.ones(items)), group)
    assert found == pytest.approx(h, abs=0.03)


def test_what_clients_want_is_the_step_of_their_closed_form():
    whole = federation(Cell(0.5, 10, 2, 4, 40, 120), seed=0)
    table = np.random.default_rng(0).standard_normal((120, 4)).astype(np.float32)
    want = wanted(CONFIG, whole, table)
    rows, users = table.astype(float), []
    for client in range(40):
        label = np.isin(np.arange(120), whole.train_items(client))
        weight = 1 + CONFIG.confidence * label
        matrix = (rows * weight[:, None]).T @ rows + CONFIG.regularization * np.eye(4)
        users.append(np.linalg.solve(matrix, rows.T @ (weight * label)))
        pull = weight * (label - rows @ users[-1])
        np.testing.assert_allclose(want.pull[client], pull, atol=1e-4)
    np.testing.assert_allclose(want.direction.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(want.direction.T), np.eye(4), atol=1e-4)
    # what a row means to the clients: the variance of its score
    score = np.array(users) @ (rows - rows.mean(0)).T
    np.testing.assert_allclose(want.common, score.var(axis=0, ddof=1), rtol=1e-3)


def common_rows(whole, sweeps=6):
    """[I, 4] rows in closed form, given the vectors of all clients, which are in closed form."""
    label = np.array([
        np.isin(np.arange(whole.num_items), whole.train_items(client))
        for client in range(whole.num_clients)
    ])  # fmt: skip

    def solved(rows, label):
        own = label[:, :, None] * rows
        matrix = rows.T @ rows + CONFIG.confidence * own.mT @ own + np.eye(4)
        return np.linalg.solve(matrix, (1 + CONFIG.confidence) * own.sum(1)[..., None])[..., 0]

    rows = np.random.default_rng(0).standard_normal((whole.num_items, 4))
    for _ in range(sweeps):
        rows = solved(solved(rows, label), label.T)
    return rows.astype(np.float32)


def test_planted_groups_are_told_from_random_ones_where_they_differ_alone():
    def found(h):
        whole = federation(Cell(h, 20, 12, 4, 240, 80), seed=0)
        return estimate(wanted(CONFIG, whole, common_rows(whole)), whole.cohort)

    alike, apart = found(0.0), found(0.5)
    assert abs(alike.h - alike.random) < 3 * alike.error
    assert apart.h - apart.random > 10 * apart.error
    assert 0.3 < apart.h < 0.7


def test_a_cohort_is_the_tag_used_most_but_for_held_out_items(monkeypatch):
    monkeypatch.setattr(real, "GROUPS", 3)  # two tags, and the rest
    whole = SimpleNamespace(
        num_clients=3, user_ids=np.array([7, 8, 9]), item_ids=np.array([50, 51, 52, 53]),
        val_item=np.array([0, 1, 1]), test_item=np.array([1, 2, 2]),
    )  # fmt: skip
    rows = [
        *[(7, 53, 1), (7, 52, 2)], *[(7, 51, 2)] * 3,  # 51 is held out of user 7
        *[(8, 50, 2)] * 2, (8, 50, 1), (8, 53, 1), (8, 50, 2),
        (9, 50, 3), (9, 51, 1), (9, 52, 2),  # user 9 has another tag but on what is held out
        *[(7, 53, 1)] * 2, *[(1, 50, 3)] * 20,  # user 1 is no client
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["user", "item", "rating"])
    assert real.by_tag(whole, frame).tolist() == [0, 1, 2]


def test_an_estimate_is_corrected_by_the_cells_between_which_it_lies():
    planted = pd.DataFrame([
        {"draws": draws, "h": h, "estimate": h * factor + 0.1}
        for draws, factor in ((1.0, 0.5), (4.0, 0.7))
        for h in (0.0, 0.5, 1.0)
    ])  # fmt: skip
    assert real.corrected(planted, 1.0, 0.35) == pytest.approx(0.5)
    assert real.corrected(planted, 2.0, 0.4) == pytest.approx(0.5)  # halfway in the logarithm
    assert real.corrected(planted, 0.1, 0.0) == 0.0

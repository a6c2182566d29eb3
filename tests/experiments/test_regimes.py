"""The map of regimes: its federations, the winner of a cell, and the boundary of theory."""

import dataclasses

import found
import numpy as np
import pandas as pd
import pytest
import regimes
from cells import Cell, boundary, federation
from pictures import said
from trials import hits

from fedem_jax.config.fedem import FedEM

CELL = Cell(heterogeneity=0.5, interactions=10, groups=2, dim=4, clients=40, items=120)


def test_the_catalogue_of_a_cell_is_whole_and_its_clients_are_alike():
    whole = federation(CELL, seed=0)
    assert whole.num_items == 120
    assert sorted(whole.item_ids) == list(range(120))
    assert set(np.diff(whole.offsets)) == {8}


def test_seeds_have_the_same_cohorts_since_a_program_holds_them():
    first, second = federation(CELL, seed=0), federation(CELL, seed=1)
    np.testing.assert_array_equal(first.cohort, second.cohort)
    other = dataclasses.replace(second, cohort=1 - second.cohort)
    with pytest.raises(ValueError, match="do not share their cohorts"):
        hits([(FedEM(), first), (FedEM(seed=1), other)], [1])


def test_groups_pay_earlier_with_more_interactions_and_later_with_more_groups():
    few, many = boundary(CELL), boundary(CELL._replace(interactions=18))
    assert many == pytest.approx(few / 2)
    assert boundary(CELL._replace(groups=4)) == pytest.approx(2 * few)


def test_the_winner_leads_by_the_difference_paired_over_clients(tmp_path, pictures):
    hits = {
        "local": [[0, 0, 0, 1]], "replaced": [[1, 0, 0, 1]], "group": [[0, 1, 0, 0]],
        "merged": [[1, 1, 0, 1]],
    }  # fmt: skip
    chosen = {
        arm: regimes.Chosen((0.1, 1.0), 3, np.zeros(1), np.array(values, float))
        for arm, values in hits.items()
    }
    row = regimes.winner_of(CELL, chosen, {"popularity": 0.2, "boundary": 0.1})
    assert (row["winner"], row["merged"], row["replaced"]) == ("merged", 0.75, 0.5)
    assert row["margin"] == row["gain"] == 0.25
    assert row["error"] == pytest.approx(0.25)  # of 0, 1, 0, 0: sd 0.5 over the root of 4
    regimes.draw(pd.DataFrame([row]), 1, 1, tmp_path / "regimes.png")
    assert "of 1 seeds" in said(pictures["regimes.png"])[1]


def test_purity_is_the_share_of_the_most_frequent_planted_group():
    groups, planted = np.array([0, 0, 0, 1, 1]), np.array([2, 2, 1, 1, 1])
    assert found.purity(groups, planted) == pytest.approx(4 / 5)


def test_spread_is_about_the_means_of_the_groups():
    scores = np.array([[0.0], [2.0], [5.0]])
    assert found.spread(scores, np.array([0, 0, 1])) == 2


@pytest.mark.slow
def test_a_map_of_one_cell(tmp_path):
    arguments = (
        "--heterogeneity 0 --interactions 10 --groups --dims --clients 40 --items 120 --seeds 1 "
        "--rounds 3"
    )
    regimes.measure([*arguments.split(), "--out", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "regimes.csv")
    assert list(rows["arm"]) == list(regimes.ARMS)
    assert rows["test_full"].between(0, 1).all()
    assert (tmp_path / "regimes.png").exists()

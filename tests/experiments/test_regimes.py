"""The map of regimes: its federations, the winner of a cell, and the boundary of theory."""

import numpy as np
import pandas as pd
import pytest
import regimes
from cells import Cell, boundary, federation, of_cohort
from pictures import said

CELL = Cell(heterogeneity=0.5, interactions=10, groups=2, dim=4, clients=40, items=120)


def test_the_catalogue_of_a_cell_is_whole_and_its_clients_are_alike():
    found = federation(CELL, seed=0)
    assert found.num_items == 120
    assert sorted(found.item_ids) == list(range(120))
    assert set(np.diff(found.offsets)) == {8}


def test_a_cohort_keeps_the_lists_of_its_clients():
    whole = federation(CELL, seed=1)
    for cohort in (0, 1):
        part, chosen = of_cohort(whole, cohort), np.flatnonzero(whole.cohort == cohort)
        assert part.num_clients == len(chosen) == 20
        for own, client in enumerate(chosen.tolist()):
            assert part.user_ids[own] == whole.user_ids[client]
            np.testing.assert_array_equal(part.train_items(own), whole.train_items(client))
            np.testing.assert_array_equal(part.barred_items(own), whole.barred_items(client))
            assert part.held_out("val", own) == whole.held_out("val", client)
            assert part.held_out("test", own) == whole.held_out("test", client)


def test_groups_pay_earlier_with_more_interactions_and_later_with_more_groups():
    few, many = boundary(CELL), boundary(CELL._replace(interactions=18))
    assert many == pytest.approx(few / 2)
    assert boundary(CELL._replace(groups=4)) == pytest.approx(2 * few)


def test_the_winner_leads_by_the_paired_difference_to_the_second(tmp_path, pictures):
    scores = {"local": [0.1, 0.2], "replaced": [0.3, 0.5], "group": [0.4, 0.8]}
    rows = [
        CELL._asdict()
        | {"arm": arm, "seed": seed, "test_full": value, "popularity": 0.2, "boundary": 0.1}
        for arm, values in scores.items()
        for seed, value in enumerate(values)
    ]
    found = regimes.winners(pd.DataFrame(rows))
    (row,) = found.to_dict("records")
    assert row["winner"] == "group"
    assert (row["margin"], row["error"]) == (pytest.approx(0.2), pytest.approx(0.1))
    regimes.draw(found, 1, 2, tmp_path / "regimes.png")
    assert "over 2 seeds" in said(pictures["regimes.png"])[1]


@pytest.mark.slow
def test_a_map_of_one_cell(tmp_path):
    arguments = (
        "--heterogeneity 0 --interactions 10 --groups --dims --clients 40 --items 120 --seeds 1 "
        "--rounds 3"
    )
    regimes.measure([*arguments.split(), "--out", str(tmp_path)])
    found = pd.read_csv(tmp_path / "regimes.csv")
    assert list(found["arm"]) == list(regimes.ARMS)
    assert found["test_full"].between(0, 1).all()
    assert (tmp_path / "regimes.png").exists()

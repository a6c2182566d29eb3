"""Cohorts that a file declares: read, numbered, checked."""

import pandas as pd
import pytest

import fedem_jax as fj
from fedem_jax.config.protocol import preset
from fedem_jax.errors import UserError

RULES = preset("leak-free", num_candidates=1, min_interactions=3)
ROWS = pd.DataFrame(
    {
        "user": list("aaaabbbbcccc"),
        "country": ["no"] * 4 + ["at"] * 4 + ["no"] * 4,
        "item": [1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 2, 9],
        "time": range(12),
    }
)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_declares_cohorts(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    write = ROWS.to_csv if suffix == ".csv" else ROWS.to_parquet
    write(path, index=False)
    made = fj.load(path, RULES, cohort="country")
    assert made.user_ids.tolist() == ["a", "b", "c"]
    assert made.cohort.tolist() == [0, 1, 0]
    assert "cohort = country" in str(made.columns_read)
    assert fj.federation(ROWS, RULES, cohort="country").fingerprint == made.fingerprint
    assert fj.load(path, RULES, cohort="1").fingerprint == made.fingerprint
    plain = fj.load(path, RULES)
    assert not plain.cohort.any()
    assert plain.fingerprint != made.fingerprint


def test_a_user_of_two_cohorts_is_refused():
    rows = ROWS.assign(country=["no", "se"] + ["at"] * 10)
    with pytest.raises(UserError, match=r"user .a. is in cohort .* and in .*; a user has"):
        fj.federation(rows, RULES, cohort="country")


@pytest.mark.parametrize(
    ("cohort", "sentence"),
    [("land", "has no column 'land'"), ("item", "'item' is the column of the item"),
     ("9", "has no column 9 for the cohort")],
)  # fmt: skip
def test_an_unknown_or_used_column_is_refused(cohort, sentence):
    with pytest.raises(UserError, match=sentence):
        fj.federation(ROWS, RULES, cohort=cohort)


def test_the_embedded_federation_declares_its_planted_groups():
    assert set(fj.load("synthetic").cohort) == set(range(12))

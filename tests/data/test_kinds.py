"""No file is read wrong without a word: files drawn by kind, held against their truth."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from kinds import files
from ratings_files import assert_sentence

from fedem_jax.data.interactions import Interactions
from fedem_jax.data.readers import parse
from fedem_jax.errors import UserError


def histories(interactions) -> dict[str, list[str]]:
    """Items of each user in order of time."""
    frame = interactions.frame
    rated = frame[frame["rating"] > 0].sort_values("time", kind="stable")
    return {
        str(user): [str(item) for item in items]
        for user, items in rated.groupby("user", sort=False)["item"]
    }


def read_or_asked(drawn) -> Interactions | str:
    try:
        return parse(Path(drawn.name), drawn.content)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_file_is_read_right_or_asked_about(examples):
    came = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=files())
    def holds(drawn):
        found = read_or_asked(drawn)
        came[type(found)] += 1
        if isinstance(found, str):
            assert_sentence(found)
            assert not drawn.clear, f"{found} {drawn.kind}"
        else:
            assert histories(found) == drawn.histories, drawn.kind
            assert found.columns_read is not None

    holds()
    assert came[Interactions] > examples / 5
    assert came[str] > examples / 10

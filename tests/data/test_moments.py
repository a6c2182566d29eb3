"""Dates as people write them, and those that are not clear."""

import pytest

from fedem_jax.data.aliases import by_name
from fedem_jax.data.moments import moments

NOON = 1_422_705_600_000_000  # 2015-01-31 12:00:00 UTC
DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["2015-01-31 12:00:00", "2015-01-31T12:00:01Z"], [NOON, NOON + 10**6]),
        (["2015-01-31T13:00:00.5+01:00", "2015-01-31"], [NOON + 500_000, NOON - DAY // 2]),
        (["2015/1/31 12:00", "2015/02/01"], [NOON, NOON + DAY // 2]),
        (["31.01.2015 12:00", "01.02.2015"], [NOON, NOON + DAY // 2]),
        (["1.2.2015", "2.2.2015"], [NOON + DAY // 2, NOON + 3 * DAY // 2]),
        (["31/01/2015 12:00:00", "01/02/2015"], [NOON, NOON + DAY // 2]),
        (["1/31/2015 12:00", "2/1/2015"], [NOON, NOON + DAY // 2]),
        (["01 31, 2015"], [NOON - DAY // 2]),
        (["Sat Jan 31 12:00:00 +0000 2015"], [NOON]),
    ],
)
def test_dates(texts, found):
    assert moments(texts).tolist() == found


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["1/2/2015", "2/3/2015"],  # day or month first
        ["1-2-2015"],
        ["13/1/2015", "1/13/2015"],
        ["2015-01-32"],
        ["2015-01-31", "1422705600"],
        ["12:30"],
        ["2015-01-31 and more"],
        ["today"],
    ],
)
def test_no_dates(texts):
    assert moments(texts) is None


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["item_id:token", "user_id:token"], {"user": 1, "item": 0}),
        (["User-ID", "ISBN", "Book-Rating"], {"user": 0, "item": 1, "rating": 2}),
        (["user_id", "video_id", "date", "hourmin", "time_ms", "is_click"],
         {"user": 0, "item": 1, "rating": 5, "timestamp": 4}),
        (["rating", "title", "text", "asin", "parent_asin", "user_id", "timestamp"],
         {"user": 5, "item": 4, "rating": 0, "timestamp": 6}),
        (["review_id", "user_id", "business_id", "stars", "useful", "date"],
         {"user": 1, "item": 2, "rating": 3, "timestamp": 5}),
        (["user_id", "item_id", "artist_id"], {"user": 0, "item": 1}),
        (["weight_kg", "shoe_size"], {}),
    ],
)  # fmt: skip
def test_usual_names(names, found):
    assert by_name(names)[0] == found

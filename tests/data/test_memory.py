"""Tables in memory: the same checks and the same fingerprint as the file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cases import interactions

import fedem_jax as fj
from fedem_jax.data.sources import load
from fedem_jax.errors import UserError

TABLE = interactions()


class Capsule:
    """A table of a library that this program does not know."""

    def __init__(self, table: pa.Table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def views(table: pd.DataFrame, names: list[str], coded: bool = False) -> pa.Table:
    """Some columns as string views, or as numbers that refer to distinct ones."""
    columns = dict(
        zip(table, pa.Table.from_pandas(table, preserve_index=False).columns, strict=True)
    )
    for name in names:
        texts = columns[name].combine_chunks().cast(pa.string())
        if not coded:
            columns[name] = texts.cast(pa.string_view())
            continue
        numbers = texts.dictionary_encode()
        columns[name] = pa.DictionaryArray.from_arrays(
            numbers.indices.cast(pa.uint32()), numbers.dictionary.cast(pa.string_view())
        )
    return pa.table(columns)


KINDS = {
    "pandas": lambda table: table,
    "pandas with an index": lambda table: table.set_index(table["time"] + 7, drop=False),
    "pyarrow": lambda table: pa.Table.from_pandas(table, preserve_index=False),
    "pyarrow in pieces": lambda table: pa.concat_tables(
        pa.Table.from_pandas(part, preserve_index=False) for part in (table[:700], table[700:])
    ),
    "capsule": lambda table: Capsule(pa.Table.from_pandas(table, preserve_index=False)),
    "views of texts": lambda table: views(table, ["user", "item"]),
    "categories of views, as Polars has them": lambda table: views(table, ["item"], coded=True),
    "categories of numbers": lambda table: table.astype({"item": "category", "rating": "category"}),
    "arrays": lambda table: {name: table[name].to_numpy() for name in table},
    "lists": lambda table: {name: table[name].tolist() for name in table},
    "arrays of objects": lambda table: {name: table[name].to_numpy(object) for name in table},
    "categories": lambda table: table.astype({"user": "category"}),
    "moments": lambda table: table.assign(time=pd.to_datetime(table["time"], unit="s")),
}


@pytest.fixture(scope="module")
def of_the_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "f.csv"
    TABLE.to_csv(path, index=False)
    return load(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_is_the_file(of_the_file, kind):
    found = fj.federation(KINDS[kind](TABLE), name="mine")
    assert found.fingerprint == of_the_file.fingerprint
    assert found.name == "mine"
    assert str(found.columns_read).startswith("user = user, item = item, rating = rating, time")


def test_columns_by_name_or_by_argument(of_the_file):
    renamed = TABLE.rename(columns={"user": "who", "item": "what", "rating": "stars", "time": "t"})
    found = fj.federation(renamed, user="who", item="what", rating="stars", time="t")
    assert found.fingerprint == of_the_file.fingerprint
    assert found.columns_read.by == "setting"
    both = TABLE.assign(timestamp=-TABLE["time"])
    assert fj.federation(both, time="time").fingerprint == of_the_file.fingerprint
    assert fj.federation(both).fingerprint != of_the_file.fingerprint


def test_settings_reach_the_split(of_the_file):
    assert fj.federation(TABLE, "paper", 3).protocol.name == "paper"
    assert fj.federation(TABLE, seed=3).seed == 3
    ordered = TABLE.sort_values("time").drop(columns="time")
    in_order = fj.federation(ordered, order="file")
    labels = dict(zip(in_order.user_ids, in_order.item_ids[in_order.test_item], strict=True))
    file = dict(zip(of_the_file.user_ids, of_the_file.item_ids[of_the_file.test_item], strict=True))
    assert labels == file


def test_true_and_false_are_interactions_and_none():
    found = fj.federation(TABLE.assign(rating=TABLE["rating"] > 2))
    assert found.cleaning["rows_unrated"] == (TABLE["rating"] <= 2).sum()


@pytest.mark.parametrize(
    ("table", "how", "words"),
    [
        (TABLE, {"name": "ml-100k"}, "is that of a known data set"),
        (TABLE, {"user": "user"}, "give both names"),
        (TABLE, {"user": "who", "item": "item"}, "has no column 'who'"),
        (TABLE.drop(columns="time"), {}, "table: has no times"),
        (TABLE.rename(columns={"user": "who"}), {}, "has no column 'user'"),
        (TABLE.assign(time=np.nan), {}, "row 1: the timestamp"),
        (TABLE.assign(item=None), {}, "row 1: the item label is empty"),
        (TABLE.assign(item=pd.to_datetime(TABLE["time"], unit="s")), {}, "item holds dates"),
        (TABLE.assign(user=TABLE["user"] + 1e300), {}, "too many digits"),
        (TABLE[:0], {}, "holds no interactions"),
        ({"user": [1, 2], "item": [1]}, {}, "table: cannot be read"),
        ([1, 2], {}, "a list is no table"),
        (TABLE, {"order": "fiel"}, "did you mean 'file'"),
    ],
)
def test_what_is_no_table_of_ratings_is_one_sentence(table, how, words):
    with pytest.raises(UserError) as caught:
        fj.federation(table, **how)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")

"""Absurd ids, sizes and encodings: what the readers promise, case by case."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import frame, told

from fedem_jax.config.protocol import preset
from fedem_jax.data import columnar
from fedem_jax.data.readers import read
from fedem_jax.data.split import split
from fedem_jax.errors import UserError

# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    ["0", "-5", "999999999999999999", "9999999999999999999", "1" * 1000, "1.0", "1e9", "007", "+1",
     "NaN", "a b", "it's", "é😀", "a\u2028b", "None", "#1"],
)  # fmt: skip
def test_a_label_is_never_changed(tmp_path, label):
    content = f"user\titem\n{label}\t1\nother\t{label}\n".encode()
    found = frame(tmp_path / "f.tsv", content)
    assert found["user"].tolist() == [label, "other"]
    assert [str(item) for item in found["item"]] == ["1", label]


def test_quoted_labels_hold_separators_and_quotes(tmp_path):
    content = b'"a,b","say ""hi"""\n c ,"d "\n'
    found = frame(tmp_path / "f.csv", content, header="no")
    assert found["user"].tolist() == ["a,b", "c"]
    assert found["item"].tolist() == ['say "hi"', "d"]


@pytest.mark.parametrize("separator", ["::", " ", "→"])
def test_quotes_hold_separators_of_every_kind(tmp_path, separator):
    content = separator.join([f'"a{separator}b"', "1", "5"]) + "\n"
    found = frame(tmp_path / "f.txt", content.encode(), separator=separator, header="no")
    assert found.iloc[0].tolist()[:3] == [f"a{separator}b", 1, 5.0]


def test_labels_are_names_and_take_no_room(tmp_path):
    """Items called 10^9 and beyond, with gaps: tables have a row for each item that there is."""
    labels = [10**9, 5, 10**18 - 1, -7, 10**6, 3]
    lines = [f"{user},{labels[user + i]},1,{i}" for user in range(3) for i in range(4)]
    path = tmp_path / "f.csv"
    path.write_text("\n".join(lines))
    rules = preset("leak-free", num_candidates=1, min_interactions=3)
    federation = split(read(path), rules, 0, "f")
    assert federation.num_items == 6
    assert sorted(federation.item_ids) == sorted(labels)


def test_a_label_has_an_end(tmp_path):
    content = b"1,2,3\n1," + b"x" * 1001 + b",3\n"
    sentence = told(tmp_path / "f.csv", content)
    assert "line 2: the item label 'xxxx" in sentence
    assert "1001 characters" in sentence


# --- ratings and moments --------------------------------------------------------------------------


def test_negative_ratings_are_read_and_dropped_by_the_split(tmp_path):
    found = frame(tmp_path / "f.csv", b"1,2,-3\n1,3,-1e308\n1,4,0\n")
    assert found["rating"].tolist() == [-3, -1e308, 0]


@pytest.mark.parametrize(
    ("moments", "kept"),
    [
        (["-5", "9223372036854775807"], [-5, 2**63 - 1]),
        (["1.5", "2"], [1.5, 2.0]),
        (["1e9", "5"], [1e9, 5.0]),
        (["007", "1"], [7, 1]),
    ],
)
def test_moments_keep_every_digit(tmp_path, moments, kept):
    content = "\n".join(f"1,{item},3,{moment}" for item, moment in enumerate(moments))
    assert frame(tmp_path / "f.csv", content.encode())["time"].tolist() == kept


@pytest.mark.parametrize(
    ("moments", "words"),
    [
        (["9223372036854775808", "5"], "'9223372036854775808' is too large to keep its digits"),
        (["5.5", "9007199254740993"], "line 2: the timestamp '9007199254740993' is too large"),
        (["1", "0x10"], "'0x10' is no finite number"),
        (["1", "1_000"], "'1_000' is no finite number"),
        (["1", "9" * 400], "is no finite number"),
        (["1", "2015-01-02T10:00"], "write timestamps as numbers, such as seconds since 1970"),
        (["1", "02.01.2015"], "write timestamps as numbers"),
    ],
)
def test_moments_that_would_be_changed_are_refused(tmp_path, moments, words):
    content = "\n".join(f"1,{item},3,{moment}" for item, moment in enumerate(moments))
    assert words in told(tmp_path / "f.csv", content.encode())


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_columns(tmp_path):
    wide = b"1," * 10**6 + b"\n"
    assert "line 1: has more than 10000 columns" in told(tmp_path / "f.csv", wide)
    sound = b"1,2,3,4\n"
    assert "line 2: has more than 10000 columns" in told(tmp_path / "f.csv", sound + wide)
    quoted = sound + b'"\n",' * 10_001 + b"\n"
    assert "line 2: has more than 10000 columns" in told(tmp_path / "f.csv", quoted)
    blanks = b"1 " * 10**5
    assert "more than 10000 columns" in told(tmp_path / "f.txt", blanks, separator=" ")


def test_one_long_line_does_not_widen_a_million_short_ones(tmp_path):
    """Padded to the widest, these few megabytes would be 9 billion cells."""
    content = b"1,2,3\n" * 9 + b"1,2,3" + b"," * 8997 + b"\n" + b"1,2,3\n" * 10**6
    sentence = told(tmp_path / "f.csv", content)
    assert "line 10: has 9000 columns, far more than most others" in sentence
    assert "line 1: has 5001 columns" in told(tmp_path / "f.csv", b"1," * 5000 + b"\n" * 10**6)


def test_many_columns_are_read_where_all_lines_have_them(tmp_path):
    content = (b"1,2,3,400000" + b",5" * 1000 + b"\n") * 50
    assert len(frame(tmp_path / "f.csv", content)) == 50


@pytest.mark.parametrize("blank", [b"\n", b"  \n", b"\r\n"])
def test_blank_lines_are_counted_and_skipped(tmp_path, blank):
    """300,000: more than the parser looks at together."""
    path, many = tmp_path / "f.csv", blank * 300_000
    content = many + b"user,item,rating\n" + many + b"1,2,3\n"
    assert frame(path, content).iloc[:, :3].to_numpy().tolist() == [[1, 2, 3]]
    assert "line 600003: the rating 'x'" in told(path, content + b"1,2,x\n")


def test_long_lines(tmp_path):
    long = b"x" * 5_000_000
    assert "line 2: the user label 'xxx" in told(tmp_path / "f.csv", b"1,2\n" + long + b",2\n")
    assert "line 1: holds a cell of more than 131072" in told(tmp_path / "f.csv", long)
    assert "line 2: opens a quote" in told(tmp_path / "f.csv", b'1,2\n"' + b"a,b\n" * 10**5)


def test_comments_are_no_rows(tmp_path):
    """A comment ahead that names the columns is a header. A label may begin with a mark."""
    path = tmp_path / "f.csv"
    assert frame(path, b"# movie, user, stars\n1,2,3\n").iloc[0].tolist()[:3] == [2, 1, 3]
    assert frame(path, b"1,2,3\n# note, of two\n1,3,3\n")["item"].tolist() == [2, 3]
    assert frame(path, b"% note\n%\n1,2,3\n")["item"].tolist() == [2]
    assert frame(path, b"#1,2,3\n#2,3,3\n")["user"].tolist() == ["#1", "#2"]
    assert frame(path, b"sep=;\n1;2;3\n")["item"].tolist() == [2]
    assert "line 4: the rating 'x'" in told(path, b"# a\n1,2,3\n# b\n1,3,x\n")


@pytest.mark.parametrize("header", ["auto", "yes"])
def test_an_empty_line_of_separators_is_no_header(tmp_path, header):
    content = b"user,item,rating\n,,\n1,2,3\n"
    assert len(frame(tmp_path / "f.csv", content, header=header)) == 1


@pytest.mark.parametrize("content", [b"1\x1f2::3\n", b'"1\x1f"::2\n'])
def test_the_mark_that_stands_in_for_separators_is_not_confused(tmp_path, content):
    assert "line 1: holds a control character" in told(tmp_path / "f", content, separator="::")


# --- settings of the reader -----------------------------------------------------------------------


@pytest.mark.parametrize("separator", ['"', "\n", ":\n", "\r", "\0", "\udcff", "\x07", '::"'])
def test_separators_that_separate_nothing(tmp_path, separator):
    assert "cannot separate columns" in told(tmp_path / "f.csv", b"1,2\n", separator=separator)


def test_absurd_columns(tmp_path):
    path = tmp_path / "f.csv"
    assert "has no column 9999" in told(path, b"1,2\n", columns=("0", "9" * 5000))
    assert "has no column 'xxx" in told(path, b"a,b\n1,2\n", columns=("a", "x" * 10**6))
    many = ",".join(f"column {number}" for number in range(9000)).encode()
    assert "and 8988 more" in told(path, many + b"\n1,2\n", columns=("a", "b"))


# --- parquet --------------------------------------------------------------------------------------


def test_many_rows_in_few_bytes(tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    pd.DataFrame({"user": np.zeros(2000, int), "item": 1}).to_parquet(path)
    assert len(read(path, order="file")) == 2000
    monkeypatch.setattr(columnar, "MOST_ROWS", 1999)
    with pytest.raises(UserError, match="holds 2000 rows, more than 1999"):
        read(path)


def test_a_text_that_many_rows_share_is_held_once(tmp_path):
    """Ten megabytes, a hundred thousand times: a terabyte, were each row to have its own."""
    path, rows = tmp_path / "f.parquet", 100_000
    shared = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["x" * 10**7]))
    pq.write_table(pa.table({"user": np.arange(rows), "item": shared}), path)
    with pytest.raises(UserError, match="row 1: the item label 'xxx"):
        read(path)


@pytest.mark.parametrize(
    ("columns", "user", "rating"),
    [
        ({"user": pd.Categorical(["a", "b", "a"])}, ["a", "b", "a"], None),
        ({"user": pd.Categorical([7, 8, 7])}, [7, 8, 7], None),
        ({"user": [1.5, 2.0, -0.0]}, ["1.5", "2.0", "-0.0"], None),
        ({"user": np.array([2**63 + 1, 2, 3], np.uint64)}, ["9223372036854775809", "2", "3"], None),
        ({"user": ["5", "6", "5"], "rating": ["1", " 2.5", "3"]}, [5, 6, 5], [1, 2.5, 3]),
    ],
)
def test_types_of_parquet_columns(tmp_path, columns, user, rating):
    path = tmp_path / "f.parquet"
    pd.DataFrame({"item": [1, 2, 3]} | columns).to_parquet(path)
    found = read(path, order="file").frame
    assert found["user"].tolist() == user
    assert found["rating"].tolist() == (rating or [1, 1, 1])


def test_decimal_labels_keep_their_digits(tmp_path):
    ids = pa.array([10**20 + 1, 10**20 + 2], pa.decimal128(30, 0))
    pq.write_table(pa.table({"user": ids, "item": [1, 2]}), tmp_path / "f.parquet")
    labels = read(tmp_path / "f.parquet", order="file").frame["user"].tolist()
    assert labels == ["100000000000000000001", "100000000000000000002"]


def test_two_columns_of_one_name(tmp_path):
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], ["user", "item", "user"])
    pq.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(UserError, match="several columns 'user'"):
        read(tmp_path / "f.parquet")

"""Files in every shape, good and bad: either the right interactions or one clear sentence."""

import numpy as np
import pandas as pd
import pytest

from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.readers import read
from fedem_jax.errors import UserError

EXPECTED = [(1, 10, 5.0, 100), (1, 20, 3.0, 200), (2, 10, 4.0, 300)]


def rows(interactions: Interactions) -> list[tuple]:
    return list(interactions.frame.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("a.csv", "user,item,rating,timestamp\n1,10,5,100\n1,20,3,200\n2,10,4,300\n", {}),
        ("a.csv", "1,10,5,100\n1,20,3,200\n2,10,4,300", {}),
        ("a.csv", "userId,movieId,rating,timestamp\n1,10,5,100\n1,20,3,200\n2,10,4,300\n", {}),
        ("a.csv", "\ufeff1,10,5,100\r\n1,20,3,200\r\n2,10,4,300\r\n", {}),
        ("a.csv", "1,10,5,100\r1,20,3,200\r2,10,4,300\r", {}),
        ("a.csv", '\n\n"1", "10","5",100\n\n 1 ,20,3,200\n  \n2,10,4,300,extra\n', {}),
        ("a.tsv", "1\t10\t5\t100\n1\t20\t3\t200\n2\t10\t4\t300\n", {}),
        ("a.dat", "1::10::5::100\n1::20::3::200\n2::10::4::300\n", {}),
        ("a.dat", "1 10  5 100\n1 20 3 200\n2 10 4 300 \n", {}),
        ("a.txt", "1;10;5;100\n1;20;3;200\n2;10;4;300\n", {}),
        ("a.csv", "1|10|5|100\n1|20|3|200\n2|10|4|300\n", {"separator": "|"}),
        ("a.csv", "1\t10\t5\t100\n1\t20\t3\t200\n2\t10\t4\t300\n", {"separator": "\\t"}),
        ("a.csv", "1→10→5→100\n1→20→3→200\n2→10→4→300\n", {"separator": "→"}),
        ("a.csv", "timestamp,rating,item,user\n100,5,10,1\n200,3,20,1\n300,4,10,2\n", {}),
        ("a.csv", "item_id,user_id,rating,timestamp\n10,1,5,100\n20,1,3,200\n10,2,4,300\n", {}),
        ("a.txt", "Item-ID;User-ID;Timestamp;Rating\n10;1;100;5\n20;1;200;3\n10;2;300;4\n", {}),
        (
            "a.csv",
            "when,who,what,stars\n100,1,10,5\n200,1,20,3\n300,2,10,4\n",
            {"columns": ("who", "what", "stars", "when")},
        ),
        (
            "a.csv",
            "when,who,what,stars\n100,1,10,5\n200,1,20,3\n300,2,10,4\n",
            {"columns": ("1", "2", "3", "0")},
        ),
        (
            "a.csv",
            "0,1,2,3\n1,10,5,100\n1,20,3,200\n2,10,4,300\n",
            {"columns": ("0", "1", "2", "3"), "header": "yes"},
        ),
    ],
)
def test_reads_every_shape(tmp_path, name, content, how):
    path = tmp_path / name
    path.write_bytes(content.encode())
    interactions = read(path, **how)
    assert rows(interactions) == EXPECTED
    assert [str(kind) for kind in interactions.frame.dtypes] == [
        "int64", "int64", "float64", "int64",
    ]  # fmt: skip


@pytest.mark.parametrize("ahead", ["", "item_id\tuser_id\ttitle, as sold, with year\n"])
@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.dat", "a"])
def test_commas_in_a_title_do_not_separate(tmp_path, name, ahead):
    path = tmp_path / name
    path.write_text(ahead + "10\t1\tGood, Bad and Ugly, The, 1966\n20\t1\tM, 1931\n10\t2\tZ\n")
    columns = () if ahead else ("1", "0")
    assert rows(read(path, columns=columns, order="item-appearance")) == [
        (1, 10, 1.0, 0),
        (1, 20, 1.0, 1),
        (2, 10, 1.0, 0),
    ]


def test_a_parquet_file_is_read_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"item_id": [10, 20, 10], "user_id": [1, 1, 2]}).to_parquet(path)
    found = read(path, order="item-appearance")
    assert rows(found) == [(1, 10, 1.0, 0), (1, 20, 1.0, 1), (2, 10, 1.0, 0)]


@pytest.mark.parametrize(
    ("order", "times"),
    [("file", [0, 1, 2, 3]), ("item-appearance", [0, 1, 0, 2]), ("random", [2, 0, 1, 3])],
)
def test_without_times_a_setting_says_the_order(tmp_path, order, times):
    path = tmp_path / "a.csv"
    path.write_text("user,item\n1,30\n1,10\n2,30\n2,20\n")
    with pytest.raises(UserError, match=r"has no times, .* set order to file"):
        read(path)
    found = read(path, order=order, seed=0)
    assert rows(found) == [
        (*pair, 1.0, time)
        for pair, time in zip([(1, 30), (1, 10), (2, 30), (2, 20)], times, strict=True)
    ]
    assert found.columns_read.time == f"order {order}"
    if order == "random":
        assert rows(read(path, order=order, seed=1)) != rows(found)


def test_an_order_takes_the_place_of_times(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,item,timestamp\n1,30,9\n1,10,8\n")
    assert read(path, order="file").frame["time"].tolist() == [0, 1]
    with pytest.raises(UserError, match="names a timestamp already"):
        read(path, order="file", columns=("user", "item", "", "timestamp"))


def test_time_without_rating(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,10,500\n2,10,400.5\n")
    assert rows(read(path, columns=("0", "1", "", "2"))) == [
        (1, 10, 1.0, 500.0),
        (2, 10, 1.0, 400.5),
    ]


def test_labels_stay_what_they_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('007,A1,5\n7,"x, y",3\n1.5,null,4\nNaN,99999999999999999999,1\n')
    frame = read(path, order="file").frame
    assert frame["user"].tolist() == ["007", "7", "1.5", "NaN"]
    assert frame["item"].tolist() == ["A1", "x, y", "null", "99999999999999999999"]


def test_timestamps_in_nanoseconds_keep_every_digit(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,1,1,1700000000000000001\n1,2,1,1700000000000000002\n")
    assert read(path).frame["time"].tolist() == [1700000000000000001, 1700000000000000002]


@pytest.mark.parametrize("moments", [[100, 200, 300], pd.to_datetime([1, 2, 3], unit="s")])
def test_parquet(tmp_path, moments):
    path = tmp_path / "a.parquet"
    pd.DataFrame(
        {"t": moments, "user": ["a", "a", "b"], "item": [3, 4, 3], "stars": [1, 2, 3]}
    ).to_parquet(path)
    frame = read(path, columns=("user", "item", "stars", "t")).frame
    assert frame["user"].tolist() == ["a", "a", "b"]
    assert frame["item"].tolist() == [3, 4, 3]
    assert frame["rating"].tolist() == [1.0, 2.0, 3.0]
    assert np.argsort(frame["time"]).tolist() == [0, 1, 2]
    assert frame["time"].dtype == np.int64


BAD = [
    # content, settings, fragments of the message
    ("", {}, ["is empty"]),
    ("\n \n\n", {}, ["is empty"]),
    ("user,item,rating\n", {}, ["holds no interactions"]),
    ("1^2^3\n", {}, ["line 1", "'1^2^3'", "single column", "separator"]),
    ("1,2,3,4\n1,2,x,4\n", {}, ["line 2", "rating 'x'", "no finite number"]),
    ("1,2,3,4\n\n\n1,2,3,y\n", {}, ["line 4", "timestamp 'y'"]),
    ("user,item,rating\n1,2,3\n1,3,nan\n", {}, ["line 3", "rating 'nan'"]),
    ("1,2,3,4\r\n1,2,inf,4\r\n", {}, ["line 2", "rating 'inf'"]),
    ("1,2,3,4\n1,2,1e999,4\n", {}, ["line 2", "1e999"]),
    ("1,2,3,4\n1,2,,4\n", {}, ["line 2", "rating is empty"]),
    ("1,2,3,4\n1,2\n", {}, ["line 2", "rating is empty"]),
    ("1,2,3,4\n,2,3,4\n", {}, ["line 2", "user label is empty"]),
    ("1,2,3,4\n1,,3,4\n", {}, ["line 2", "item label is empty"]),
    ("1,2,True,4\n1,2,maybe,4\n", {"header": "no"}, ["line 1", "rating 'True'"]),
    ('1,2,3,4,"a\nb"\n1,2,oops,4,c\n', {}, ["line 3", "oops"]),
    ('1,2,3\n2,"3,4\n5,6,7\n', {}, ["line 2", "quote"]),
    ('1,2,3\n2,"3\n4",5\n', {}, ["line 2", "item label", "line break"]),
    ("1,2,3\n", {"columns": ("0", "7")}, ["no column 7", "item", "3 columns"]),
    ("1,2,3\n", {"columns": ("0",)}, ["columns", "user and item"]),
    ("1,2,3\n", {"columns": ("0", "0")}, ["one column twice"]),
    ("a,b,c\n1,2,3\n", {"columns": ("a", "bb")}, ["no column 'bb'", "did you mean 'b'"]),
    ("rating,user,what\n1,2,3\n", {}, ["no column 'item'", "'1,2,3'", "set columns"]),
    ("1,2,3\n", {"separator": '"'}, ["separator"]),
    (b"1,2,3\n1,2\xff,3\n", {"encoding": "utf-8"}, ["line 2", "utf-8", "set encoding"]),
    (b"1,2,3\n1,2,3\n", {"encoding": "utf-9"}, ["encoding", "unknown"]),
    (b"1,2,3\n1,\x002,3\n", {}, ["line 2", "binary"]),
    ("1,2,3\n", {}, ["no times", "'1,2,3'", "order"]),
    ("1,2,3\n", {"order": "fiel"}, ["order", "did you mean 'file'"]),
    ("1,2,3\n", {"header": "maybe"}, ["header: 'maybe' is unknown"]),
]


@pytest.mark.parametrize(("content", "how", "fragments"), BAD)
def test_bad_content_is_one_clear_sentence(tmp_path, content, how, fragments):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read(path, **how)
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    assert "\n" not in message
    assert message.endswith(".")
    assert "mine.csv" in message or message.startswith(tuple(FileFormat._fields))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: cannot be read \(No such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("table", "fragments"),
    [
        ({"user": [1, 2], "item": [1, None]}, ["row 2", "item label is empty"]),
        ({"user": [1, 2], "item": [1, 2], "rating": [1.0, np.inf]}, ["row 2", "rating 'inf'"]),
        ({"user": [1, 2], "item": [1, 2], "rating": ["5", "bad"]}, ["row 2", "rating 'bad'"]),
        ({"user": [1], "item": [[1, 2]]}, ["parquet"]),
        ({"user": [1]}, ["fewer than two columns"]),
        ({"user": [], "item": []}, ["holds no interactions"]),
    ],
)
def test_bad_parquet(tmp_path, table, fragments):
    path = tmp_path / "mine.parquet"
    pd.DataFrame(table).to_parquet(path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value


@pytest.mark.parametrize("content", [b"", b"PAR1", b"user,item\n1,2\n"])
def test_no_parquet_at_all(tmp_path, content):
    path = tmp_path / "mine.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no readable parquet"):
        read(path)

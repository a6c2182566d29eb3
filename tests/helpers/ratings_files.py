"""What every ratings file must come to, whatever its bytes, and sound files to start from.

For the tests by hypothesis and for the fuzzer (`tests/data/fuzz_readers.py`).
"""

import gzip
import io
import itertools
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from plain_split import histories, plain_histories

from fedem_jax.config.protocol import preset
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.readers import parse
from fedem_jax.data.sources import SOURCES
from fedem_jax.data.split import split
from fedem_jax.errors import UserError

RULES = preset("leak-free", num_candidates=1, min_interactions=3)
"""Of the splits: few users are dropped."""

HOW = {
    "csv": ("f.csv", "", "auto"),
    "tsv": ("f.tsv", "", "auto"),
    "guessed": ("f.txt", "", "auto"),
    "bars": ("f.txt", "|", "yes"),
    "arrows": ("f.txt", "→", "no"),
    "ml-100k": ("u.data", "\t", "no"),
    "ml-1m": ("ratings.dat", "::", "no"),
    "filmtrust": ("ratings.txt", " ", "no"),
    "amazon": ("ratings.dat", ",", "no"),
    "json": ("f.jsonl", "", "auto"),
    "gzip": ("f.csv.gz", "", "auto"),
    "zip": ("f.zip", "", "auto"),
    "feather": ("f.feather", "", "auto"),
    "parquet": ("f.parquet", "", "auto"),
}
"""Name of the file, separator and header, as the settings or the table of data sets give them."""

PACKED = ("gzip", "zip", "feather", "parquet")
"""Kinds that hardly ever survive damage."""

COLUMNS = ((), ("0", "1"), ("1", "0", "", "2"), ("user", "item", "3"), ("item", "user"))
"""Settings `columns` to go with them."""


class Read(NamedTuple):
    """What came of a file that was read."""

    interactions: Interactions
    clients: int
    """Users of the file that a split makes clients, among them and two more."""


def judge(kind: str, content: bytes, columns: tuple[str, ...] = ()) -> Read | None:
    """Read a file; its interactions are sound and can be split, or it is refused (None) in a
    sentence fit to be shown."""
    name, separator, header = HOW[kind]
    try:
        interactions = _parsed(Path(name), content, FileFormat(columns, separator, header))
    except UserError as error:
        assert_sentence(str(error))
        return None
    assert_sound(interactions)
    return Read(interactions, split_clients(interactions))


def _parsed(path: Path, content: bytes, form: FileFormat) -> Interactions:
    """A file without times is first refused, then read with an order."""
    try:
        return parse(path, content, form)
    except UserError as error:
        if "has no times" not in str(error):
            raise
        assert_sentence(str(error))
        return parse(path, content, form._replace(order="file"))


def judge_lastfm(path: Path) -> Interactions | None:
    """The same for a file of Last.fm."""
    try:
        interactions = SOURCES["lastfm-2k"].read(path)
    except UserError as error:
        assert_sentence(str(error))
        return None
    assert_sound(interactions)
    return interactions


def assert_sentence(sentence: str) -> None:
    assert sentence.endswith(".")
    assert len(sentence) < 1000
    assert sentence.isprintable()


def assert_sound(interactions: Interactions) -> None:
    frame = interactions.frame
    assert list(frame) == ["user", "item", "rating", "time"]
    assert len(frame) > 0
    for column in ("user", "item"):
        labels = frame[column].tolist()
        assert len({type(label) for label in labels}) == 1
        assert type(labels[0]) in (int, str)
        assert all(str(label).strip() and "\n" not in str(label) for label in labels)
    assert frame["rating"].dtype == np.float64
    assert frame["time"].dtype in (np.int64, np.float64)
    assert np.isfinite(frame[["rating", "time"]]).all(axis=None)


def split_clients(interactions: Interactions) -> int:
    """How many users of a file a split makes clients. It splits the file and two more users, whose
    items let nobody run out of candidates, and is held against plain loops."""
    frame = interactions.frame
    users, items = unused(frame["user"], 2), unused(frame["item"], 6)
    more = pd.DataFrame({"user": np.repeat(users, 3), "item": items, "rating": 1.0, "time": 0})
    both = Interactions(pd.concat([frame, more.astype(frame.dtypes)], ignore_index=True))
    federation = split(both, RULES, 0, "f")
    expected = plain_histories(both, RULES)
    assert dict(zip(federation.user_ids.tolist(), histories(federation), strict=True)) == expected
    for u, label in enumerate(federation.user_ids.tolist()):
        drawn = [*federation.val_candidates[u], *federation.test_candidates[u]]
        assert len(set(drawn)) == 2
        assert not set(expected[label]) & set(federation.item_ids[drawn].tolist())
    return federation.num_clients - 2


def unused(labels: pd.Series, number: int) -> list:
    """Labels of the same kind that are not among these."""
    taken = set(labels)
    kind = type(labels.tolist()[0])
    free = (kind(label) for label in itertools.count() if kind(label) not in taken)
    return list(itertools.islice(free, number))


def written(form: str) -> bytes:
    """A file of a few rows, in a form whose columns have types."""
    table = pd.DataFrame({
        "user": ["a", "a", "b", "a"],
        "item": [3, 4, 3, 5],
        "rating": [1.0, 2.0, 3.0, 4.0],
        "timestamp": [1, 2, 3, 1],
    })  # fmt: skip
    out = io.BytesIO()
    if form == "json":
        return table.to_json(orient="records", lines=True).encode()
    (table.to_parquet if form == "parquet" else table.to_feather)(out)
    return out.getvalue()


def zipped(content: bytes) -> bytes:
    """A zip archive of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("f.csv"), content)
    return out.getvalue()


CSV = b'user,item,rating,timestamp\n1,10,5,100\n1,"20",3,200\r\n2,10,4,300\n1,30,2,200\n'


SOUND = {
    "csv": CSV,
    "gzip": gzip.compress(CSV, mtime=0),
    "zip": zipped(CSV),
    "tsv": b"user\titem\n7\tA1\n7\tB2\n8\tA1\n7\tC3\n",
    "guessed": "\ufeff1;10;5.5;100\n\n1;20;-3;200\n2;10;4e0;300\n1;30;1;3\n1;40;2;3\n".encode(),
    "bars": b'uid|item|rating|timestamp|note\n1|"a|b"|5|100|"two\nlines"\n1| 20|3|200|\n1|c|1|5|\n',
    "arrows": "1→10→5→100\n1→20→3→200\n1→30→4→300\n".encode(),
    "ml-100k": b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t377\t1\t878887116\n"
    b"196\t51\t2\t881250949\n",
    "ml-1m": b"1::1193::5::978300760\n1::661::3::978302109\n1::914::3::978301968\n",
    "filmtrust": b"1 1 2\n1 2 4\n1 3 3.5\n1 4 3\n1 5 4\n",
    "amazon": b"A1,B000,5,1400000000\nA1,B001,4,1400000001\nA2,B000,3,1400000002\n"
    b"A1,B002,1,1400000000\n",
    "json": written("json"),
    "feather": written("feather"),
    "parquet": written("parquet"),
}
"""A sound file of each kind."""

LASTFM = (
    b"userID\tartistID\ttagID\tday\tmonth\tyear\r\n"
    b"2\t52\t13\t1\t4\t2009\r\n2\t53\t15\t30\t3\t2009\r\n"
)
"""A sound file of Last.fm."""

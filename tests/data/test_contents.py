"""Files of other kinds, packed or encoded, and what is no file at all."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile

import pytest
from reading import frame, told

from fedem_jax.config.base import READING
from fedem_jax.data import contents
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.readers import read
from fedem_jax.errors import UserError


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"1,2\n" * 99, mtime=0)[:-9], "damaged gzip archive"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"PK\x03\x04rest", "zip archive that cannot be read"),
        (bz2.compress(b"1,2\n")[:-9], "damaged bzip2 archive"),
        (b"\xfd7zXZ\0", "damaged xz archive"),
        (b"\x28\xb5\x2f\xfdrest", "zstd archive"),
        (b"PAR1", "no readable parquet file"),
        (b"ARROW1", "no readable feather file"),
        (b"\0\1\2", "binary data"),
        (pickle.dumps([1, 2]), "is a pickle"),
        (b"\xd0\xcf\x11\xe0rest", "Excel workbook (xls)"),
        (b"\x89HDF\r\n", "HDF5"),
        (b'{"user": 1}\n{"user"', "no readable JSON file"),
        (b'[{"user": 1}, 2]', "no readable JSON file"),
    ],
)
def test_what_is_no_ratings_file_is_named(tmp_path, content, kind):
    assert kind in told(tmp_path / "f.csv", content)


ROWS = "user,item,rating,timestamp\n1,2,3,10\n1,é,3,20\n"


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "notes"),
    [
        ("f.csv.gz", gzip.compress(ROWS.encode(), mtime=0), ()),
        ("f.csv", gzip.compress(ROWS.encode(), mtime=0), ()),
        ("f.tsv.bz2", bz2.compress(ROWS.replace(",", "\t").encode()), ()),
        ("f.csv.xz", lzma.compress(ROWS.encode()), ()),
        ("f.zip", zipped(**{"f.csv": ROWS, "__MACOSX/f.csv": "x", "folder/": ""}), ()),
        ("f.csv", ROWS.encode("utf-8-sig"), ()),
        ("f.csv", ROWS.encode("utf-16"), ("encoding utf-16",)),
        ("f.csv", ROWS.encode("utf-32"), ("encoding utf-32",)),
        ("f.csv", ROWS.encode("utf-16-be"), ("encoding utf-16-be (a guess)",)),
        ("f.csv", ROWS.encode("utf-16-le"), ("encoding utf-16-le (a guess)",)),
        ("f.csv", ROWS.encode("latin-1"), ("encoding cp1252 (a guess)",)),
    ],
)
def test_packing_and_encoding(tmp_path, name, content, notes):
    (tmp_path / name).write_bytes(content)
    found = read(tmp_path / name)
    assert found.frame["item"].tolist() == ["2", "é"]
    assert found.frame["time"].tolist() == [10, 20]
    assert found.columns_read.notes == notes


def test_an_encoding_by_setting(tmp_path):
    found = frame(
        tmp_path / "f.csv", "user;item;timestamp\n1;ł;2\n".encode("cp1250"), encoding="cp1250"
    )
    assert found["item"].tolist() == ["ł"]


def test_a_zip_of_several_files_and_a_workbook(tmp_path):
    two = zipped(**{"a.csv": ROWS, "b.csv": ROWS})
    assert "zip archive of 2 files (a.csv, b.csv)" in told(tmp_path / "f.zip", two)
    book = zipped(**{"xl/workbook.xml": "", "[Content_Types].xml": ""})
    assert "Excel workbook (xlsx); save the sheet as CSV" in told(tmp_path / "f.xlsx", book)


def test_a_file_beyond_all_measure_once_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "LARGEST_FILE", 1000)
    assert "once it is unpacked" in told(tmp_path / "f.csv", gzip.compress(b"1,2,3\n" * 1000))


def test_pipes_devices_and_paths_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", "/dev/null"):
        with pytest.raises(UserError, match="is no regular file"):
            read(path)
    with pytest.raises(UserError, match="is no path"):
        read("a\0b.csv")
    with pytest.raises(UserError, match="cannot be read \\(File name too long\\)"):
        read("a" * 5000 + ".csv")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Faked, since a superuser may read everything."""
    path = tmp_path / "f.csv"
    path.write_bytes(b"1,2\n")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        read(path)


def test_a_file_beyond_all_measure_is_not_opened(tmp_path):
    path = tmp_path / "f.csv"
    path.touch()
    os.truncate(path, contents.LARGEST_FILE + 1)  # sparse: it takes no room
    with pytest.raises(UserError, match="leave out users or columns"):
        read(path)


def test_settings_of_reading_are_the_same_everywhere():
    """Comparisons and sweeps bar them from a method's own settings, by this list."""
    assert FileFormat._fields == READING

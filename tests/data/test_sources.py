"""Finding, downloading and reading data sets; the network is a fake throughout."""

import dataclasses
import hashlib
import io
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests.adapters

from fedem_jax.config.protocol import preset
from fedem_jax.data import download
from fedem_jax.data.sources import SOURCES, known_datasets, load, read
from fedem_jax.errors import UserError

RATINGS = b"1\t10\t5\t100\n1\t20\t3\t200\n"


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def served(monkeypatch):
    """Call it with what the server of ml-100k sends (and the checksum to expect)."""

    def serve(content: bytes, checksum: str = ""):
        checksum = checksum or "md5:" + hashlib.md5(content).hexdigest()
        source = dataclasses.replace(SOURCES["ml-100k"], checksum=checksum)
        monkeypatch.setitem(SOURCES, "ml-100k", source)
        answer(monkeypatch, content)

    return serve


def answer(monkeypatch, content: bytes = b"", status: int = 200, **headers: str):
    def send(self, request, **_):
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code, response.raw = status, io.BytesIO(content)
        response.headers.update(headers)
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)


@pytest.fixture
def offline(monkeypatch):
    def send(self, request, **_):
        raise requests.ConnectionError

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)


# look-up


def write(path: Path, content: bytes = RATINGS) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_lookup_order(tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDEM_DATA", raising=False)
    for folder, rows in (("data", 1), ("environment", 2), ("given", 3)):
        write(tmp_path / folder / "ml-100k/u.data", b"1\t2\t3\t4\n" * rows)
    assert len(read("ml-100k")) == 1
    monkeypatch.setenv("FEDEM_DATA", "environment")
    assert len(read("ml-100k")) == 2
    assert len(read("ml-100k", data_dir="given")) == 3


def test_the_complete_ml_1m_is_preferred(tmp_path):
    write(tmp_path / "ml-1m/ratings_partial_timestamps.dat", b"1::2::3::0\n")
    assert read("ml-1m", data_dir=tmp_path).frame["time"].tolist() == [0]
    (tmp_path / "ml-1m/ratings.dat").write_bytes(b"1::2::3::978300760\n")
    assert read("ml-1m", data_dir=tmp_path).frame["time"].tolist() == [978300760]


def test_lastfm_dates_are_in_order(tmp_path):
    header = b"userID\tartistID\ttagID\tday\tmonth\tyear\r\n"
    content = (
        header + b"2\t52\t13\t1\t4\t2009\r\n2\t53\t15\t30\t3\t2009\r\n2\t54\t1\t1\t1\t2010\r\n"
    )
    write(tmp_path / "lastfm-2k/user_taggedartists.dat", content)
    frame = read("lastfm-2k", data_dir=tmp_path).frame
    assert frame["rating"].tolist() == [13, 15, 1]
    assert np.argsort(frame["time"]).tolist() == [1, 0, 2]


def test_unknown_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unknown data set 'ml-100': did you mean 'ml-100k'\?"):
        load("ml-100")
    with pytest.raises(UserError, match=r"mine\.csv: cannot be read"):
        load("mine.csv")
    with pytest.raises(UserError, match="unknown protocol 'papr': did you mean 'paper'"):
        load("synthetic", "papr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        load("folder")


def test_a_file_of_the_users_own(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("".join(f"{u};{u * 5 + i};{i}\n" for u in range(4) for i in range(5)))
    rules = preset("paper", num_candidates=3, min_interactions=3)
    federation = load(str(path), rules, columns=("0", "1", "", "2"), separator=";", header="no")
    assert (federation.name, federation.num_clients, federation.num_items) == ("mine.csv", 4, 20)
    assert federation.item_ids[federation.test_item].tolist() == [4, 9, 14, 19]


def test_a_file_called_like_a_known_data_set_has_another_name(tmp_path):
    """Published numbers are shown by the name of the federation."""
    rows = "".join(f"{u},{u * 5 + i},1,{i}000000\n" for u in range(4) for i in range(5))
    rules = preset("paper", num_candidates=3, min_interactions=3)
    for name in ("ml-100k.csv", "ml-100k"):
        path = tmp_path / name
        path.write_text(rows)
        assert load(path, rules).name == (name if path.suffix else str(path))


def test_every_source_is_complete():
    names = [listing.name for listing in known_datasets()]
    assert names == ["synthetic", *SOURCES]
    for name, source in SOURCES.items():
        assert source.homepage.startswith("https://"), name
        assert source.citation, name
        assert bool(source.url) == bool(source.checksum) == bool(source.member), name
        assert bool(source.url) != bool(source.file), name
        assert min(source.users, source.items, source.rows) > 0, name
        assert source.url.startswith("https://") or not source.url, name


@pytest.mark.data
@pytest.mark.parametrize("name", ["ml-100k", "filmtrust", "lastfm-2k", "amazon-video"])
def test_listed_sizes_are_those_of_the_files(data_dir, name):
    frame = read(name, data_dir=data_dir).frame
    assert frame["user"].nunique() == SOURCES[name].users
    assert frame["item"].nunique() == SOURCES[name].items
    assert len(frame) == SOURCES[name].rows


SAMPLES = {
    "hetrec2011-ml": "userID\tmovieID\trating\ttimestamp\n75\t3\t1\t1162160236000\n",
    "amazon-music": "A1,B1,5.0,1203033600\n",
    "librarything": "a,7,4.5,1203033600\n",
    "TaFeng": "TRANSACTION_DT,CUSTOMER_ID,AGE_GROUP,PIN_CODE,PRODUCT_SUBCLASS,PRODUCT_ID,AMOUNT,"
    "ASSET,SALES_PRICE\n11/1/2000,1104905,45-49,115,110411,4710199010372,2,24,30\n"
    "11/30/2000,418683,45-49,115,120107,4710857472535,1,48,46\n",
    "QB-article": "user_id,item_id,click,gender\n9,4,1,0\n",
    "microlens": "user,item,timestamp\n9,4,1660000000000\n",
    "ml-10m": "1::122::5::838985046\n",
    "ml-20m": "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n",
    "ml-25m": "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n",
    "ml-32m": "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n",
}
"""First lines of the data sets that are not at hand."""


@pytest.mark.parametrize("name", SAMPLES)
def test_the_form_of_every_known_file(tmp_path, name):
    write(tmp_path / SOURCES[name].files[0], SAMPLES[name].encode())
    found = read(name, data_dir=tmp_path)
    assert len(found) == SAMPLES[name].count("\n") - name.startswith(
        ("hetrec", "TaFeng", "QB", "micro", "ml-2", "ml-3")
    )
    assert found.columns_read.by == "definition"


@pytest.mark.parametrize("name", [name for name in SOURCES if not SOURCES[name].url])
def test_what_cannot_be_downloaded_says_which_file_goes_where(tmp_path, name):
    with pytest.raises(UserError) as caught:
        read(name, data_dir=tmp_path)
    for part in (
        SOURCES[name].file,
        SOURCES[name].homepage,
        str(tmp_path / SOURCES[name].files[0]),
    ):
        assert part in str(caught.value)


# download


def test_download_is_unpacked_to_its_place_and_nowhere_else(tmp_path, served):
    evil = {"../evil": b"x", "/tmp/evil": b"x", "ml-100k/../../evil": b"x"}
    served(archive(**{"ml-100k/u.data": RATINGS}, **evil))
    data = tmp_path / "sub" / "data"
    assert len(read("ml-100k", data_dir=data)) == 2
    assert files_below(tmp_path) == ["sub/data/ml-100k/u.data"]
    assert (data / "ml-100k/u.data").read_bytes() == RATINGS


def test_what_was_downloaded_is_not_fetched_again(tmp_path, served, monkeypatch):
    served(archive(**{"ml-100k/u.data": RATINGS}))
    read("ml-100k", data_dir=tmp_path)
    monkeypatch.setattr(download, "_fetch", None)
    assert len(read("ml-100k", data_dir=tmp_path)) == 2


def refused(tmp_path: Path, name: str = "ml-100k") -> str:
    """The sentence of a failed download, which leaves nothing behind, not even a folder."""
    with pytest.raises(UserError) as caught:
        read(name, data_dir=tmp_path / "new" / "data")
    assert list(tmp_path.iterdir()) == []
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "new" / "data" / SOURCES[name].files[0]) in message
    return message


def test_checksum_mismatch(tmp_path, served):
    served(archive(**{"ml-100k/u.data": RATINGS}), "md5:" + 32 * "0")
    assert "checksum of https://files.grouplens.org" in refused(tmp_path)


def test_no_network(tmp_path, offline):
    message = refused(tmp_path)
    assert "(ConnectionError)" in message
    assert "get https://files.grouplens.org/datasets/movielens/ml-100k.zip" in message
    assert "put its ml-100k/u.data at" in message


def test_server_error(tmp_path, monkeypatch):
    answer(monkeypatch, b"gone", status=404)
    assert "(HTTP status 404)" in refused(tmp_path)


def test_redirect_to_plain_http_is_refused(tmp_path, monkeypatch):
    answer(monkeypatch, status=302, location="http://elsewhere.example/ml-100k.zip")
    assert "(InvalidSchema)" in refused(tmp_path)


def test_unknown_origin_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_fetch", None)
    message = refused(tmp_path, "amazon-video")
    assert "https://github.com/Zhangcx19/IJCAI-23-PFedRec" in message


@pytest.mark.parametrize(
    "content", [b"no archive", archive(other=b"x"), archive(**{"ml-100k/u.data": RATINGS})[:-30]]
)
def test_broken_archive(tmp_path, served, content):
    served(content)
    assert "no intact ml-100k/u.data in the archive" in refused(tmp_path)


def test_sizes_are_bounded(tmp_path, served, monkeypatch):
    bomb = archive(**{"ml-100k/u.data": b"0" * 100_000})
    served(bomb)
    monkeypatch.setattr(download, "MAX_BYTES", 50_000)
    assert len(bomb) < 50_000
    assert "ml-100k/u.data has more than 50000 bytes" in refused(tmp_path)
    monkeypatch.setattr(download, "MAX_BYTES", 50)
    assert "more than 50 bytes" in refused(tmp_path)


def test_folders_that_were_there_stay(tmp_path, offline):
    (tmp_path / "data" / "ml-100k").mkdir(parents=True)
    with pytest.raises(UserError, match="ConnectionError"):
        read("ml-100k", data_dir=tmp_path / "data")
    assert (tmp_path / "data" / "ml-100k").is_dir()


class Halting(io.BytesIO):
    """A connection that breaks off after some bytes."""

    def __init__(self, content: bytes, end: BaseException | None):
        super().__init__(content)
        self.end = end

    def read(self, *_):
        content = super().read(40)
        if not content and self.end is not None:
            raise self.end
        return content


@pytest.mark.parametrize("end", [None, OSError(104, "Connection reset by peer")])
def test_a_download_that_breaks_off_is_not_taken_for_whole(tmp_path, served, monkeypatch, end):
    content = archive(**{"ml-100k/u.data": RATINGS})
    served(content)
    answer(monkeypatch, content)
    send = requests.adapters.HTTPAdapter.send

    def half(self, request, **how):
        response = send(self, request, **how)
        response.raw = Halting(content[: len(content) // 2], end)
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", half)
    message = refused(tmp_path)
    assert ("Connection reset" if end else "checksum") in message


def test_an_interrupted_download_leaves_nothing(tmp_path, served, monkeypatch):
    content = archive(**{"ml-100k/u.data": RATINGS})
    served(content)
    replace = Path.replace

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read("ml-100k", data_dir=tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Path, "replace", replace)
    assert len(read("ml-100k", data_dir=tmp_path / "data")) == 2


KILLED = """
import os, sys
from pathlib import Path
import requests
from fedem_jax.data.sources import read

class Half:
    def __init__(self): self.sent = False
    def read(self, *_):
        if self.sent: os._exit(9)
        self.sent = True
        return b"PK half an archive"

def send(self, request, **_):
    response = requests.Response()
    response.request, response.url, response.status_code = request, request.url, 200
    response.raw = Half()
    return response

requests.adapters.HTTPAdapter.send = send
read("ml-100k", data_dir=sys.argv[1])
"""


def test_a_killed_download_is_not_taken_for_whole(tmp_path, served):
    """What a killed process leaves has another name, and does not stand in the way."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == 9
    assert not (tmp_path / "ml-100k" / "u.data").exists()
    assert len(files_below(tmp_path)) == 1
    served(archive(**{"ml-100k/u.data": RATINGS}))
    assert len(read("ml-100k", data_dir=tmp_path)) == 2


def test_a_link_in_an_archive_is_not_followed(tmp_path, served):
    """Its target would be the content of a regular file, which is no ratings file."""
    secret = tmp_path / "secret"
    secret.write_bytes(RATINGS)
    link = zipfile.ZipInfo("ml-100k/u.data")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(link, str(secret))
    served(buffer.getvalue())
    with pytest.raises(UserError, match="u\\.data in the archive is a link"):
        read("ml-100k", data_dir=tmp_path / "data")
    assert files_below(tmp_path) == ["secret"]


@pytest.mark.parametrize("address", ["http", "ftp", "file"])
def test_only_https_is_spoken(tmp_path, served, monkeypatch, address):
    served(archive(**{"ml-100k/u.data": RATINGS}))
    plain = dataclasses.replace(SOURCES["ml-100k"], url=f"{address}://127.0.0.1/ml-100k.zip")
    monkeypatch.setitem(SOURCES, "ml-100k", plain)
    assert "(InvalidSchema)" in refused(tmp_path)


@pytest.mark.parametrize("row", ["2\t5\t1\t32\t1\t2009", "2\t5\t1\t1\t1\t99999999999",
                                 "2\t5\t1\t1\t0.5\t2009"])  # fmt: skip
def test_lastfm_dates_that_are_none(tmp_path, row):
    header = "userID\tartistID\ttagID\tday\tmonth\tyear\n2\t52\t13\t1\t4\t2009\n"
    write(tmp_path / "lastfm-2k/user_taggedartists.dat", (header + row).encode())
    with pytest.raises(
        UserError, match=r"row 2 below the header: the (day|month|year) .* is no part of a date"
    ):
        read("lastfm-2k", data_dir=tmp_path)


def test_folder_that_cannot_be_written(tmp_path, served):
    served(archive(**{"ml-100k/u.data": RATINGS}))
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(UserError, match=r"download failed \((Not a directory|File exists)\)"):
        read("ml-100k", data_dir=tmp_path / "data")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(UserError, match="unknown data set 'a"):
        read(name)

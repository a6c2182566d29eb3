"""The known data sets, where they come from, and `load`: name or path -> `Federation`."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.protocol import Protocol, preset
from fedem_jax.data import readers
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic
from fedem_jax.errors import UserError, nearest

MAX_BYTES = 100 * 2**20
"""Largest archive or file that a download may bring; the largest known one has 24 MB."""


@dataclass(frozen=True)
class Source:
    """A public data set: how to recognise, fetch and read it."""

    users: int
    """Users in the file, before any filter."""
    items: int
    """Items in the file."""
    homepage: str
    """Where a person finds it."""
    citation: str
    """Whom to cite."""
    files: tuple[str, ...]
    """Where it is looked for below the data folder; a download becomes the first of these."""
    read: Callable[[Path], Interactions]
    """Reader of such a file."""
    url: str = ""
    """Zip archive, https; empty: no address with a known checksum, so it is never downloaded."""
    checksum: str = ""
    """Of the archive, `<algorithm>:<digest>`."""
    member: str = ""
    """Name of the ratings file in the archive."""


def _reader(separator: str) -> Callable[[Path], Interactions]:
    return functools.partial(readers.read, separator=separator, header="no")


def _read_lastfm(path: Path) -> Interactions:
    """One row per tag that a user gave an artist: the tag's number stands in the place of a rating,
    as in the file that the authors of this line of papers use; the date becomes yyyymmdd.

    Raises:
        UserError: as `readers.read` does, or a part of a date is none.
    """
    names = ("userID", "artistID", "tagID")
    date = np.int64(0)
    for part, most in {"year": 9999, "month": 12, "day": 31}.items():
        frame = readers.read(path, (*names, part), "\t").frame
        wrong = ~((frame["time"] >= 0) & (frame["time"] <= most) & (frame["time"] % 1 == 0))
        if wrong.any():
            value = frame["time"][wrong.idxmax()]
            raise UserError(
                f"{path}, row {wrong.idxmax() + 1} below the header: the {part} {value} is no part "
                "of a date; mend it."
            )
        date = date * 100 + frame["time"].astype(np.int64)
    return Interactions.of(frame["user"], frame["item"], frame["rating"], date)


SOURCES = {
    "ml-100k": Source(
        users=943,
        items=1682,
        homepage="https://grouplens.org/datasets/movielens/100k/",
        citation="Harper and Konstan, ACM TiiS 5(4), 2015",
        files=("ml-100k/u.data",),
        read=_reader("\t"),
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        checksum="md5:0e33842e24a9c977be4e0107933c0723",
        member="ml-100k/u.data",
    ),
    "ml-1m": Source(
        users=6040,
        items=3706,
        homepage="https://grouplens.org/datasets/movielens/1m/",
        citation="Harper and Konstan, ACM TiiS 5(4), 2015",
        # the second holds all rows, but 0 in the place of many timestamps
        files=("ml-1m/ratings.dat", "ml-1m/ratings_partial_timestamps.dat"),
        read=_reader("::"),
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        checksum="md5:c4d9eecfca2ab87c1945afe126590906",
        member="ml-1m/ratings.dat",
    ),
    "filmtrust": Source(
        users=1508,
        items=2071,
        homepage="https://guoguibing.github.io/librec/datasets.html",
        citation="Guo, Zhang and Yorke-Smith, IJCAI 2013",
        files=("filmtrust/ratings.txt",),
        read=_reader(" "),
        url="https://guoguibing.github.io/librec/datasets/filmtrust.zip",
        checksum="sha256:de4a55cb4ae26f663d88e9ad1ba1fae2d0d6d7a7499e37dc5245bab470c2d13c",
        member="ratings.txt",
    ),
    "lastfm-2k": Source(
        users=1892,
        items=12523,
        homepage="https://grouplens.org/datasets/hetrec-2011/",
        citation="Cantador, Brusilovsky and Kuflik, HetRec at RecSys 2011",
        files=("lastfm-2k/user_taggedartists.dat",),
        read=_read_lastfm,
        url="https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
        checksum="sha256:6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
        member="user_taggedartists.dat",
    ),
    "amazon-video": Source(
        users=8072,
        items=11830,
        homepage="https://github.com/Zhangcx19/IJCAI-23-PFedRec (data/amazon/ratings.dat)",
        citation="He and McAuley, WWW 2016; this subset: Zhang et al., IJCAI 2023",
        files=("amazon/ratings.dat", "amazon-video/ratings.dat"),
        read=_reader(","),
    ),
}
"""The table of known data sets. A local file is taken as it is; what is downloaded is verified."""


class Listing(NamedTuple):
    """One line of the list of data sets."""

    name: str
    users: int
    items: int
    origin: str


def known_datasets() -> list[Listing]:
    """Every name that `load` knows, with the size of its file and where it comes from."""
    _, truth = synthetic()
    embedded = Listing("synthetic", len(truth.group), len(truth.popularity), "embedded, planted")
    return [embedded] + [
        Listing(name, source.users, source.items, source.homepage)
        for name, source in SOURCES.items()
    ]


def load(
    dataset: str,
    protocol: str | Protocol = "leak-free",
    seed: int = 0,
    *,
    data_dir: str | Path = "",
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Federation:
    """Read a data set and split it into one client per user.

    dataset: a known name (`known_datasets`) or the path of a file of your own.
    protocol: rules of the split, by name or as made by `fedem_jax.config.protocol.preset`.
    seed: of the candidates that held-out items are ranked against.
    The others: see `read`.

    Raises:
        UserError: as `read` and `split` do.
    """
    rules = preset(protocol) if isinstance(protocol, str) else protocol
    interactions = read(
        dataset, data_dir=data_dir, columns=columns, separator=separator, header=header
    )
    name = dataset if dataset == "synthetic" or dataset in SOURCES else Path(dataset).stem
    return split(interactions, rules, seed, name)


def federation_of(config: Config, load: Callable[..., Federation] = load) -> Federation:
    """The federation that a configuration names, split by its protocol and seed."""
    return load(
        config.dataset,
        config.rules(),
        config.seed,
        data_dir=config.data_dir,
        columns=config.columns,
        separator=config.separator,
        header=config.header,
    )


def read(
    dataset: str,
    *,
    data_dir: str | Path = "",
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """The interactions of a known data set, or of a file of your own.

    Known data sets are looked for below `data_dir`, else `$FEDEM_DATA`, else `data/`; one that is
    absent is downloaded there, verified against its checksum before it is used. A file that lies
    there already is taken as it is. `columns`, `separator` and `header` describe a file of your
    own (`readers.read`). The synthetic data are always the same.

    Raises:
        UserError: unknown name, unreadable file, or a data set that can be neither found nor
            downloaded; the sentence then says which file to put where.
    """
    if dataset == "synthetic":
        return synthetic()[0]
    if dataset in SOURCES:
        source = SOURCES[dataset]
        return source.read(_locate(dataset, source, data_dir))
    path = Path(dataset)
    if path.suffix or len(path.parts) > 1 or os.path.exists(path):
        return readers.read(path, columns, separator, header)
    known = ["synthetic", *SOURCES]
    raise UserError(
        f"unknown data set '{dataset}': {nearest(dataset, known)}, or the path of a file."
    )


def _locate(name: str, source: Source, data_dir: str | Path) -> Path:
    folder = Path(data_dir or os.environ.get("FEDEM_DATA") or "data")
    present = (folder / file for file in source.files if os.path.isfile(folder / file))
    path = next(present, None)
    if path is None:
        path = folder / source.files[0]
        _download(name, source, path)
    return path


# download


def _download(name: str, source: Source, path: Path) -> None:
    """Fetch, verify and unpack one file to `path`, which appears whole or not at all.

    Only the one known member is read from the archive and only `path` is written, so no name in
    an archive decides where anything goes.
    """
    if not source.url:
        raise UserError(
            f"data set '{name}' is not at {path} and cannot be downloaded (no checksum of its "
            f"origin is known); get it from {source.homepage} and put it there."
        )
    by_hand = f"get {source.url} yourself and put its {source.member} at {path}"
    import pooch  # the only user of the network, and slow to import

    made = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
            archive = pooch.retrieve(
                source.url, source.checksum, "archive.zip", scratch, downloader=_fetch
            )
            unpacked = Path(scratch) / "member"
            unpacked.write_bytes(_member(Path(archive), source.member))
            unpacked.replace(path)
    except OSError as error:
        raise UserError(
            f"data set '{name}' is not at {path} and its download failed "
            f"({error.strerror or type(error).__name__}); {by_hand}."
        ) from None
    except ValueError:  # what pooch raises if the checksum differs
        raise UserError(
            f"data set '{name}': the checksum of {source.url} is not {source.checksum}, so the "
            f"download was thrown away; try again later, or {by_hand}."
        ) from None
    finally:
        if not os.path.exists(path):
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for nothing, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not made, or somebody else uses it by now
            folder.rmdir()


def _fetch(url: str, output_file: str, pooch) -> None:
    """Download `url` over https alone, redirects included, up to `MAX_BYTES`; for pooch."""
    import requests

    with requests.Session() as session:
        del session.adapters["http://"]  # so a redirect to plain http is refused
        with session.get(url, stream=True, timeout=30) as response, open(output_file, "wb") as out:
            if not response.ok:
                raise OSError(0, f"HTTP status {response.status_code}")
            for chunk in response.iter_content(2**16):
                out.write(chunk)
                if out.tell() > MAX_BYTES:
                    raise OSError(0, f"more than {MAX_BYTES} bytes")


def _member(archive: Path, name: str) -> bytes:
    """The content of one file of a zip archive, at most `MAX_BYTES`."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as file:
            if stat.S_ISLNK(opened.getinfo(name).external_attr >> 16):
                raise OSError(0, f"{name} in the archive is a link")
            content = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
        raise OSError(0, f"no intact {name} in the archive") from None
    if len(content) > MAX_BYTES:
        raise OSError(0, f"{name} has more than {MAX_BYTES} bytes")
    return content

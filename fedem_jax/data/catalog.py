"""The catalog of known data sets: sizes, addresses, checksums and readers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedem_jax.data import readers
from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError


@dataclass(frozen=True)
class Source:
    """A public data set: how to find, download and read it."""

    users: int
    """Users in the file, before any filter."""
    items: int
    """Items in the file."""
    homepage: str
    """Web page of the data set."""
    citation: str
    """Publication to cite."""
    files: tuple[str, ...]
    """Paths below the data folder, in the order of the search; a download goes to the first."""
    read: Callable[[Path], Interactions]
    """Reader of such a file."""
    url: str = ""
    """Address of a zip archive, https. Empty: no checksum is known, so it is never downloaded."""
    checksum: str = ""
    """Checksum of the archive, `<algorithm>:<digest>`."""
    member: str = ""
    """Name of the ratings file in the archive."""


def _reader(separator: str) -> Callable[[Path], Interactions]:
    return functools.partial(readers.read, separator=separator, header="no")


def _read_lastfm(path: Path) -> Interactions:
    """Read one row per tag that a user gave an artist.

    The number of the tag takes the place of a rating, as in the file of the released programs. The
    date becomes the number yyyymmdd.

    Raises:
        UserError: as in `readers.read`, or a date has an impossible year, month or day.
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
        # the second file holds all rows, but 0 in place of many timestamps
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
"""Known data sets by name. A local file is used as it is; a download is verified first."""

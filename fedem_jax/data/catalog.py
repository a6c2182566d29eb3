"""The catalog of known data sets: sizes, addresses, checksums and readers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.data import readers
from fedem_jax.data.columns_read import ColumnsRead
from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError


@dataclass(frozen=True)
class Source:
    """A public data set: how to find, download and read it."""

    users: int
    """Users in the file, before any filter."""
    items: int
    """Items in the file."""
    rows: int
    """Rows of the file."""
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
    verified: bool = True
    """Whether somebody of this project has checked the checksum against a download. If not, it is
    copied from the publisher, or from programs that download the archive."""
    member: str = ""
    """Name of the ratings file in the archive."""
    file: str = ""
    """Without an address: which file is to be got by hand."""


def _reader(separator: str, **form: Any) -> Callable[[Path], Interactions]:
    """Of a file without names, in the order user, item, rating, timestamp."""
    given = {"columns": ("0", "1", "2", "3"), "header": "no"} | form
    return functools.partial(readers.read, separator=separator, **given)


def _named(separator: str, *columns: str, order: str = "") -> Callable[[Path], Interactions]:
    """Of a file whose first line names the columns."""
    how = {"separator": separator, "columns": columns, "header": "yes", "order": order}
    return functools.partial(readers.read, **how)


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
        frame = readers.read(path, columns=(*names, part), separator="\t").frame
        wrong = ~((frame["time"] >= 0) & (frame["time"] <= most) & (frame["time"] % 1 == 0))
        if wrong.any():
            value = frame["time"][wrong.idxmax()]
            raise UserError(
                f"{path}, row {wrong.idxmax() + 1} below the header: the {part} {value} is no part "
                "of a date; mend it."
            )
        date = date * 100 + frame["time"].astype(np.int64)
    read = ColumnsRead(*names, "year, month, day", "definition")
    columns = (frame["user"], frame["item"], frame["rating"], date)
    return Interactions.of(*columns, columns_read=read)


SOURCES = {
    "ml-100k": Source(
        users=943,
        items=1682,
        rows=100_000,
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
        rows=1_000_209,
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
        rows=35_497,
        homepage="https://guoguibing.github.io/librec/datasets.html",
        citation="Guo, Zhang and Yorke-Smith, IJCAI 2013",
        files=("filmtrust/ratings.txt",),
        # the released programs take the first appearance of an item in the file as its time
        read=_reader(" ", columns=("0", "1", "2"), order="item-appearance"),
        url="https://guoguibing.github.io/librec/datasets/filmtrust.zip",
        checksum="sha256:de4a55cb4ae26f663d88e9ad1ba1fae2d0d6d7a7499e37dc5245bab470c2d13c",
        member="ratings.txt",
    ),
    "lastfm-2k": Source(
        users=1892,
        items=12523,
        rows=186_479,
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
        rows=63_836,
        homepage="https://github.com/Zhangcx19/IJCAI-23-PFedRec (data/amazon/ratings.dat)",
        citation="He and McAuley, WWW 2016; this subset: Zhang et al., IJCAI 2023",
        files=("amazon/ratings.dat", "amazon-video/ratings.dat"),
        read=_reader(","),
        file="its ratings.dat",
    ),
    "hetrec2011-ml": Source(
        users=2113,
        items=10109,
        rows=855_598,
        homepage="https://grouplens.org/datasets/hetrec-2011/",
        citation="Cantador, Brusilovsky and Kuflik, HetRec at RecSys 2011",
        files=("hetrec2011-ml/user_ratedmovies-timestamps.dat",),
        read=_named("\t", "userID", "movieID", "rating", "timestamp"),
        file="user_ratedmovies-timestamps.dat of hetrec2011-movielens-2k-v2.zip",
    ),
    "amazon-music": Source(
        users=478_235,
        items=266_414,
        rows=836_006,
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        citation="He and McAuley, WWW 2016",
        files=("amazon-music/ratings_Digital_Music.csv", "amazon-music/ratings.dat"),
        read=_reader(","),
        file="ratings_Digital_Music.csv, or the ratings.dat of the authors' programs,",
    ),
    "librarything": Source(
        users=73_882,
        items=337_561,
        rows=979_053,
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets.html#social_data",
        citation="Zhao, McAuley and King, CIKM 2015; Cai, He and McAuley, RecSys 2017",
        files=("librarything/ratings.dat",),
        read=_reader(","),
        file="the reviews as lines user,item,rating,timestamp",
    ),
    "TaFeng": Source(
        users=32_266,
        items=23_812,
        rows=817_741,
        homepage="https://www.kaggle.com/datasets/chiranjivdas09/ta-feng-grocery-dataset",
        citation="Hsu, Chung and Huang, Expert Systems with Applications 26(2), 2004",
        files=("TaFeng/ta_feng_all_months_merged.csv",),
        read=_named(",", "CUSTOMER_ID", "PRODUCT_ID", "", "TRANSACTION_DT"),
        file="ta_feng_all_months_merged.csv",
    ),
    "QB-article": Source(
        users=24_516,
        items=7355,
        rows=348_736,
        homepage="https://tenrec0.github.io/",
        citation="Yuan et al., NeurIPS 2022 (Tenrec)",
        files=("QB-article/QB-article.csv",),
        # its authors removed the times, but kept each user's order of time (issue 1 of
        # github.com/yuangh-x/2022-NIPS-Tenrec)
        read=_named(",", "user_id", "item_id", "click", "", order="file"),
        file="QB-article.csv",
    ),
    "microlens": Source(
        users=50_000,
        items=19_220,
        rows=359_708,
        homepage="https://github.com/westlake-repl/MicroLens",
        citation="Ni et al., 2023 (MicroLens-50k)",
        files=("microlens/MicroLens-50k_pairs.csv",),
        read=_named(",", "user", "item", "", "timestamp"),
        file="MicroLens-50k_pairs.csv",
    ),
    "ml-10m": Source(
        users=69_878,
        items=10_677,
        rows=10_000_054,
        homepage="https://grouplens.org/datasets/movielens/10m/",
        citation="Harper and Konstan, ACM TiiS 5(4), 2015",
        files=("ml-10m/ratings.dat",),
        read=_reader("::"),
        url="https://files.grouplens.org/datasets/movielens/ml-10m.zip",
        checksum="md5:ce571fd55effeba0271552578f2648bd",
        verified=False,
        member="ml-10M100K/ratings.dat",
    ),
    **{
        name: Source(
            users=users,
            items=items,
            rows=rows,
            homepage=f"https://grouplens.org/datasets/movielens/{name.removeprefix('ml-')}/",
            citation="Harper and Konstan, ACM TiiS 5(4), 2015",
            files=(f"{name}/ratings.csv",),
            read=_named(",", "userId", "movieId", "rating", "timestamp"),
            url=f"https://files.grouplens.org/datasets/movielens/{name}.zip",
            checksum=f"md5:{digest}",
            verified=False,
            member=f"{name}/ratings.csv",
        )
        for name, users, items, rows, digest in (
            ("ml-20m", 138_493, 26_744, 20_000_263, "cd245b17a1ae2cc31bb14903e1204af3"),
            ("ml-25m", 162_541, 59_047, 25_000_095, "6b51fb2759a8657d3bfcbfc42b592ada"),
            ("ml-32m", 200_948, 84_432, 32_000_204, "d472be332d4daa821edc399621853b57"),
        )
    },
}
"""Known data sets by name. A local file is used as it is; a download is verified first."""

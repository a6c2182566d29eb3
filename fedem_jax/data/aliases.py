"""The names by which columns are found.

A name is compared without the type after a colon, without case, and without signs: `user_id:token`,
`User-ID` and `userId` are all `userid`.

user, rating, time    the first name of the table that the file has; the others are ignored
item                  as well, inside a line of the table. Two columns from different lines, such as
                      an artist and a track, are two kinds of items, and the user has to choose
"""

from __future__ import annotations

import re

USER = (
    "userid", "user", "useridx", "uid", "reviewerid", "reviewer", "customerid", "customer",
    "memberid", "accountid", "visitorid", "profileid", "username", "userkey",
)  # fmt: skip
ITEM = (
    ("itemid", "item", "iid", "itemidx", "itemkey"),
    ("parentasin", "asin"),
    ("movieid", "movie", "filmid", "film"),
    ("artistid", "artist"),
    ("trackid", "track", "songid", "song", "musicid"),
    ("businessid", "business", "gmapid", "restaurantid"),
    ("videoid", "video"),
    ("bookid", "book", "isbn", "workid"),
    ("productid", "product", "goodsid", "sku"),
    ("newsid", "articleid", "article", "postid", "contentid"),
    ("animeid", "anime"),
    ("gameid", "game", "appid"),
    ("recipeid", "recipe"),
    ("venueid", "poiid", "locationid", "placeid"),
    ("beerid", "beer"),
    ("courseid", "course"),
)  # fmt: skip
RATING = (
    "rating", "ratings", "stars", "star", "overall", "score", "ratingvalue", "ratingscore",
    "userrating", "bookrating", "reviewoverall", "playcount", "plays", "listencount", "weight",
    "isclick", "click", "clicked", "preference",
)  # fmt: skip
TIME = (
    "timestamp", "timestampms", "timems", "unixtimestamp", "unixreviewtime", "unixtime", "epoch",
    "ts", "datetime", "time", "eventtime", "clicktime", "createdat", "dateadded", "reviewtime",
    "reviewdate", "transactiondt", "date",
)  # fmt: skip


def plain(name: str) -> str:
    """A name as the table has it: without type, case and signs."""
    return re.sub("[^a-z0-9]", "", re.sub(r":[a-z_]+$", "", name.strip(), flags=re.I).lower())


def by_name(names: list[str]) -> tuple[dict[str, int], list[int]]:
    """Find the roles among the names of columns.

    Returns:
        The position of each role that is found. If columns are of different kinds of items, the
        role item is not found. The second value is then the positions of all of them.
    """
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        first.setdefault(plain(name), position)
    found = {}
    for role, table in (("user", USER), ("rating", RATING), ("timestamp", TIME)):
        position = next((first[name] for name in table if name in first), None)
        if position is not None:
            found[role] = position
    kinds = [
        next(first[name] for name in line if name in first)
        for line in ITEM
        if not first.keys().isdisjoint(line)
    ]
    generic = not first.keys().isdisjoint(ITEM[0])
    if kinds and (generic or len(kinds) == 1):
        found["item"] = kinds[0]
        kinds = []
    return {
        role: found[role] for role in ("user", "item", "rating", "timestamp") if role in found
    }, kinds

"""Ratings files drawn by kind, each with what a right reader must find in it.

A kind: style of the header x separator x order of the columns x comments x quotes x types of labels
and ratings x format of the times x packing or encoding.
"""

import gzip
import io
import lzma
from datetime import UTC, datetime
from typing import NamedTuple

import pandas as pd
from hypothesis import strategies as st

NAMES = {
    "user": ["user", "user_id", "userId", "uid", "reviewerID", "User-ID", "customer_id"],
    "item": ["item", "item_id", "iid", "asin", "parent_asin", "business_id", "movieId", "artistID"],
    "rating": ["rating", "stars", "overall", "score", "play_count", "weight", "is_click"],
    "time": ["timestamp", "ts", "time", "time_ms", "unixReviewTime", "unixtime", "date"],
}
TYPES = {"user": "token", "item": "token", "rating": "float", "time": "float", "title": "token_seq"}
HEADERS = ("names", "names", "typed", "comment", "none", "unknown", "title", "half")
SEPARATORS = (",", ";", "\t", "|", "::", " ")
TIMES = ("s", "ms", "float", "iso", "iso-T", "iso-Z", "dots", "hour", "absent")
PACKED = ("plain", "gz", "xz", "utf-16", "utf-8-sig", "jsonl", "parquet", "feather")

MOVED = (
    ("user", "item", "time", "rating", "title"),
    ("user", "rating", "item", "time", "title"),
    ("time", "user", "item", "rating", "title"),
    ("user", "time", "item", "rating", "title"),
)
"""Orders of columns without names. An item ahead of its user cannot be told from a user."""


class Drawn(NamedTuple):
    """A file and its truth."""

    name: str
    content: bytes
    histories: dict[str, list[str]]
    """Items of each user in order of time, without those of a rating of 0 or less."""
    clear: bool
    """Whether a reader can know what is what. If not, it must ask."""
    kind: dict[str, str]


@st.composite
def files(draw) -> Drawn:
    """A file of 24 to 40 rows."""
    kind = {
        "header": draw(st.sampled_from(HEADERS)),
        "separator": draw(st.sampled_from(SEPARATORS)),
        "order": draw(st.sampled_from(["usual", "usual", "any"])),
        "comments": draw(st.sampled_from(["none", "#", "%", "between", "sep"])),
        "quotes": draw(st.sampled_from(["none", "all", "some", "stray"])),
        "labels": draw(st.sampled_from(["numbers", "texts", "zeros"])),
        "ratings": draw(st.sampled_from(["halves", "whole", "comma", "booleans", "absent"])),
        "time": draw(st.sampled_from(TIMES)),
        "packed": draw(st.sampled_from(PACKED)),
        "title": draw(st.sampled_from(["yes", "no"])),
    }
    rows = draw(st.permutations(_rows(draw(st.integers(0, 2**32 - 1)))))
    columns = ["user", "item", "rating", "time"]
    if kind["ratings"] == "absent":
        columns.remove("rating")
    if kind["time"] == "absent":
        columns.remove("time")
    if kind["title"] == "yes":
        columns.append("title")
    if kind["order"] == "any":
        columns = draw(st.permutations(columns))
        if kind["header"] == "none":
            columns = draw(st.sampled_from([[r for r in o if r in columns] for o in MOVED]))
    names = {role: draw(st.sampled_from(NAMES[role])) for role in NAMES} | {"title": "title"}
    if kind["time"] == "hour":
        names["time"] = "time"  # what is called a timestamp may be a count of 0 to 23
    cells = [[_cell(kind, role, row, at) for role in columns] for at, row in enumerate(rows)]
    rated = kind["ratings"] != "absent"
    histories: dict[str, list[str]] = {}
    for user, item, rating, _ in sorted(rows, key=lambda row: row[3]):
        if not rated or _rated(kind, rating):
            label = [_label(kind, role, each) for role, each in (("user", user), ("item", item))]
            histories.setdefault(label[0], []).append(label[1])
    if kind["packed"] in ("jsonl", "parquet", "feather"):
        return _typed(kind, columns, names, cells, histories)
    text = _text(kind, columns, names, cells)
    content = text.encode("utf-16" if kind["packed"] == "utf-16" else "utf-8")
    if kind["packed"] == "utf-8-sig":
        content = text.encode("utf-8-sig")
    packing = {"gz": gzip.compress, "xz": lzma.compress}
    name = f"f{'.csv' if kind['separator'] in ',;' else '.dat'}"
    if kind["packed"] in packing:
        content, name = packing[kind["packed"]](content), f"{name}.{kind['packed']}"
    return Drawn(name, content, histories, _clear(kind, columns), kind)


def _rows(seed: int) -> list[tuple[int, int, float, int]]:
    """Four users; no two rows have one time, and no user has an item twice."""
    rows = []
    for user in range(4):
        count = 6 + (seed >> (2 * user)) % 5
        start = 1_200_000_000 + (seed * 7919 + user * 104_729) % 10**8
        for place in range(count):
            item = (seed // 3 + user * 17 + place * 7) % 97
            time = start + place * (86_400 + seed % 40_000)
            rating = ((seed >> place) % 11) / 2
            rows.append((user, item, rating, time))
    return rows


def _label(kind: dict[str, str], role: str, number: int) -> str:
    letter = "u" if role == "user" else "i"
    return {"numbers": f"{number}", "texts": f"{letter}{number}", "zeros": f"00{number}"}[
        kind["labels"]
    ]


def _rated(kind: dict[str, str], rating: float) -> bool:
    return {"whole": int(rating) > 0, "booleans": rating > 2}.get(kind["ratings"], rating > 0)


def _cell(kind: dict[str, str], role: str, row: tuple[int, int, float, int], at: int) -> str:
    user, item, rating, time = row
    if role in ("user", "item"):
        return _label(kind, role, user if role == "user" else item)
    if role == "title":
        return f"{'Café' if kind['packed'] != 'plain' else 'Cafe'}-{item}"
    if role == "rating":
        if kind["ratings"] == "whole":
            return str(int(rating))
        if kind["ratings"] == "booleans":
            return "true" if rating > 2 else "false"
        return str(rating).replace(".", "," if kind["ratings"] == "comma" else ".")
    moment = datetime.fromtimestamp(time, UTC)
    return {
        "s": str(time),
        "ms": str(1000 * time + at),
        "float": f"{time}.25",
        "iso": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "iso-T": moment.strftime("%Y-%m-%dT%H:%M:%S"),
        "iso-Z": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dots": moment.strftime("%d.%m.%Y %H:%M:%S"),
        "hour": moment.strftime("%H"),
    }[kind["time"]]


def _text(kind, columns, names, cells) -> str:
    separator = kind["separator"]

    def line(row: list[str], title: str = "") -> str:
        quoted = []
        for role, cell in zip(columns, row, strict=True):
            wrap = (
                kind["quotes"] == "all" or separator in cell or (separator == " " and " " in cell)
            )
            if role == "title" and kind["quotes"] == "some":
                cell, wrap = f"{cell}{separator}again", True
            if role == "title" and kind["quotes"] == "stray" and title:
                cell, wrap = f'"{cell}', False
            quoted.append(f'"{cell}"' if wrap else cell)
        return separator.join(quoted)

    header = {
        "none": [],
        "names": [separator.join(names[role] for role in columns)],
        "typed": [separator.join(f"{names[role]}:{TYPES[role]}" for role in columns)],
        "comment": ["# " + separator.join(names[role] for role in columns)],
        "unknown": [separator.join(f"field_{'abcde'[at]}" for at in range(len(columns)))],
        "title": [separator.join(["export", "2011"])],
        "half": [separator.join("who" if r == "user" else names[r] for r in columns)],
    }[kind["header"]]
    lines = header + [line(row, "stray" if at in (3, 11) else "") for at, row in enumerate(cells)]
    if kind["comments"] == "between":
        lines.insert(len(lines) // 2, "# half of the rows")
    ahead = {
        "#": ["# exported, by nobody; 2011", "#"],
        "%": ["% bip weighted", "% 40 4 97"],
        "sep": [f"sep={separator}"],
    }
    return "\n".join([*ahead.get(kind["comments"], []), *lines]) + "\n"


def _clear(kind: dict[str, str], columns: list[str]) -> bool:
    if kind["time"] in ("hour", "absent") or kind["header"] in ("unknown", "title", "half"):
        return False
    commas = kind["ratings"] == "comma" and kind["separator"] == ","
    blanks = kind["time"] in ("iso", "dots") and kind["separator"] == " "
    if kind["quotes"] == "stray" and (commas or blanks):
        return False  # beside quotes that are needed, a stray one is refused with its line
    if kind["header"] == "none":
        return columns[:4] == ["user", "item", "rating", "time"]
    return True


def _typed(kind, columns, names, cells, histories) -> Drawn:
    """A file whose columns have names; texts that are whole numbers become integers."""
    table = pd.DataFrame(cells, columns=[names[role] for role in columns])
    for role in columns:
        numeric = pd.to_numeric(table[names[role]], errors="coerce")
        if numeric.notna().all() and not (role in ("user", "item") and kind["labels"] == "zeros"):
            table[names[role]] = numeric
    if kind["packed"] == "jsonl":
        content = table.to_json(orient="records", lines=True).encode()
    else:
        out = io.BytesIO()
        write = table.to_parquet if kind["packed"] == "parquet" else table.to_feather
        write(out)
        content = out.getvalue()
    return Drawn(
        f"f.{kind['packed']}", content, histories, kind["time"] not in ("hour", "absent"), kind
    )

"""Ratings files as people have them: the same interactions in twenty kinds of files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

READ = (
    "typed.inter", "typed-swapped.inter", "typed-no-rating.inter", "ts.csv", "time.csv",
    "reviews.csv", "log.csv", "iso.csv", "konect.txt", "commented.csv", "semicolon-latin1.csv",
    "stray-quotes.tsv", "lines.jsonl", "packed.csv.gz",
)  # fmt: skip
"""Files whose held-out items are all found."""

ASKED = {
    "title.csv": "neither names user and item nor is a row",
    "two-columns.csv": "has no times",
    "three-unknown.csv": "one of 'weight_kg', 'shoe_size'",
}
"""Files that are refused, and why."""


class Cases(NamedTuple):
    """Files, and the rows that they were made of."""

    folder: Path
    rows: pd.DataFrame
    """user, item, rating, time; no user has two rows at one time."""

    def held_out(self, liked: float = 0) -> dict[str, tuple[str, str]]:
        """Validation and test item of each user with ten rows of a rating above `liked`."""
        rows = self.rows[self.rows["rating"] > liked].sort_values("time")
        groups = rows.groupby("user")["item"]
        return {
            str(user): (str(items.iloc[-2]), str(items.iloc[-1]))
            for user, items in groups
            if len(items) >= 10
        }


def interactions(users: int = 100, items: int = 300, seed: int = 0) -> pd.DataFrame:
    """12 to 23 items for each user, in no order."""
    draw = np.random.default_rng(seed)
    share = 1 / np.arange(1, items + 1) ** 0.8
    rows = []
    for user in range(1, users + 1):
        count = int(draw.integers(12, 24))
        chosen = draw.choice(items, count, replace=False, p=share / share.sum()) + 1
        start = 1_300_000_000 + int(draw.integers(0, 10**7))
        times = start + np.sort(draw.choice(10**6, count, replace=False))
        for item, time in zip(chosen, times, strict=True):
            rows.append((user, int(item), float(draw.integers(1, 11)) / 2, int(time)))
    table = pd.DataFrame(rows, columns=["user", "item", "rating", "time"])
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def written(folder: Path) -> Cases:
    """Write all files into a folder."""
    table = interactions()
    u, i, r, t = (table[name].tolist() for name in table)

    def text(name, head, *columns, between=",", before="") -> None:
        rows = zip(*columns, strict=True)
        lines = [head] * bool(head) + [between.join(map(str, row)) for row in rows]
        (folder / name).write_text(before + "\n".join(lines) + "\n", encoding="utf-8")

    typed = {
        "u": "user_id:token",
        "i": "item_id:token",
        "r": "rating:float",
        "t": "timestamp:float",
    }
    for name, order in {"": "uirt", "-swapped": "iurt", "-no-rating": "uit"}.items():
        head, columns = (
            [typed[c] for c in order],
            [{"u": u, "i": i, "r": r, "t": t}[c] for c in order],
        )
        text(f"typed{name}.inter", "\t".join(head), *columns, between="\t")
    text("ts.csv", "user_id,item_id,rating,ts", u, i, r, t)
    text("time.csv", "uid,iid,stars,time", u, i, r, t)
    text("reviews.csv", "asin,reviewerID,overall,unixReviewTime", i, u, r, t)
    many = len(u)
    milliseconds = [1000 * moment for moment in t]
    text(
        "log.csv", "user_id,video_id,date,hourmin,time_ms,is_click",
        u, i, [20110426] * many, [1200] * many, milliseconds, [1] * many,
    )  # fmt: skip
    dates = pd.to_datetime(table["time"], unit="s")
    text("iso.csv", "user,item,rating,timestamp", u, i, r, dates.dt.strftime("%Y-%m-%d %H:%M:%S"))
    marks = "% bip weighted\n% 1739 100 300\n"
    text("konect.txt", "", u, i, r, t, between=" ", before=marks)
    text("title.csv", "", u, i, r, t, before="ratings,2011,export\n")
    text("commented.csv", "userId,movieId,rating,timestamp", u, i, r, t, before="# an export\n")
    quoted = [[f'"{cell}"' for cell in column] for column in (u, i, [f"Café {c}" for c in i])]
    commas = [f'"{rating:.1f}"'.replace(".", ",") for rating in r]
    text("latin.csv", '"user";"item";"title";"rating";"timestamp"', *quoted, commas, t, between=";")
    utf8 = (folder / "latin.csv").read_text(encoding="utf-8")
    (folder / "latin.csv").unlink()
    (folder / "semicolon-latin1.csv").write_bytes(utf8.encode("latin-1"))
    titles = ['"The Inch' if row in (3, 403) else f"artist {item}" for row, item in enumerate(i)]
    text(
        "stray-quotes.tsv", "user\titem\ttitle\trating\ttimestamp", u, i, titles, r, t, between="\t"
    )
    text("two-columns.csv", "user,item", u, i)
    text("three-unknown.csv", "user_id,item_id,weight_kg,shoe_size", u, i, r, t)
    named = table.rename(columns={"time": "timestamp"})
    named.to_json(folder / "lines.jsonl", orient="records", lines=True)
    named.to_csv(folder / "packed.csv.gz", index=False)
    named.assign(timestamp=dates.dt.date).to_parquet(folder / "dates.parquet", index=False)
    named.assign(rating=table["rating"] > 2).to_parquet(folder / "booleans.parquet", index=False)
    return Cases(folder, table)

"""Shards: the parts of a sweep that jobs of a cluster run, each in a folder of its own.

OUT/shards/3-of-8/      the results of shard 3 of 8, as a sweep keeps them; nobody else writes there
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from fedem_jax.errors import UserError

SHARDS = "shards"
"""Folder of all shards in that of their sweep."""

NAME = re.compile(r"\d+-of-\d+")

JOURNAL = ".journal"
"""How the file of a shared search by Optuna ends, if it is no database."""

Unit = TypeVar("Unit")


class Shard(NamedTuple):
    """Part `number` of `of` parts, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        """As written on the command line."""
        return f"{self.number}/{self.of}"

    @classmethod
    def read(cls, text: str) -> Shard:
        """The shard that is written `i/n`.

        Raises:
            UserError: it is not written so, or `i` is not in 1 ... n.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not found:
            raise UserError(f"shard: '{text}' is no part of a sweep; write i/n, such as 3/8.")
        number, of = map(int, found.groups())
        if not 1 <= number <= of:
            hint = "" if number else ", so add 1 to an index that counts from 0"
            raise UserError(f"shard: there is no part {number} of {of}; they count from 1{hint}.")
        return cls(number, of)

    def folder(self, out: Path) -> Path:
        """Its folder in that of the sweep."""
        return out / SHARDS / f"{self.number}-of-{self.of}"

    def cut(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Its part: neighbours, as many as in any other part or one more."""
        size = len(units)
        return units[size * (self.number - 1) // self.of : size * self.number // self.of]


class Unfinished(UserError):
    """Shards are missing or have not ended."""

    def __init__(self, found: str, shards: Sequence[Shard]):
        """Take what is missing, and the shards to run again."""
        parts = " and ".join(f"shard='{shard}'" for shard in shards)
        super().__init__(f"{found}; run {parts} again, then collect.")
        self.found, self.shards = found, list(shards)


def shards_in(out: Path) -> list[Shard]:
    """The shards whose folders are in that of a sweep, in order."""
    names = [path.name for path in (out / SHARDS).glob("*-of-*")]
    return sorted(Shard(*map(int, name.split("-of-"))) for name in names if NAME.fullmatch(name))


def check_division(out: Path, shards: Sequence[Shard]) -> None:
    """Refuse shards of several divisions.

    Raises:
        UserError: their number of parts differs.
    """
    by_parts = {shard.of: shard for shard in reversed(shards)}
    if len(by_parts) > 1:
        first, second = (by_parts[of] for of in sorted(by_parts)[:2])
        raise UserError(
            f"{first.folder(out)}: is one of {first.of} parts, and {second.folder(out)} one of "
            f"{second.of}; divide the sweep by one number, and remove the folders of the other."
        )


def check_storage(storage: str) -> None:
    """Refuse what is neither the path of a journal nor the URL of a database.

    Raises:
        UserError: it is neither.
    """
    if not (storage.endswith(JOURNAL) or "://" in storage):
        raise UserError(
            f"storage: '{storage}' is no place for the trials of a search; give the path of a file "
            "that ends in .journal, or a URL such as sqlite:///search.db."
        )


def without_password(text: str) -> str:
    """A text with stars in place of the password in a URL."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)

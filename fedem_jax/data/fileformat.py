"""`FileFormat`: the settings that describe a file of one's own."""

from __future__ import annotations

from typing import NamedTuple

from fedem_jax.data.interactions import ORDERS
from fedem_jax.errors import UserError, nearest


class FileFormat(NamedTuple):
    """How a file is read; empty = found in the file."""

    columns: tuple[str, ...] = ()
    """Names or positions (from 0) of user, item, rating and timestamp. The last two may be left
    out: they are then found by name. An empty name says that there is no such column."""
    separator: str = ""
    """Empty = tab for .tsv, else the one that the first lines agree on. A blank stands for any run
    of blanks."""
    header: str = "auto"
    """yes, no or auto: whether the first line names the columns."""
    encoding: str = ""
    """Name of the encoding, as Python knows it. Empty = UTF-8 or UTF-16, else cp1252 as a guess."""
    decimal: str = ""
    """Decimal point of ratings: . or ,"""
    order: str = ""
    """Order of time where a file has none: file, item-appearance or random. Of a file that has
    times, it takes their place."""
    cohort: str = ""
    """Name or position of a column that declares the cohort of a user, such as its country. All
    rows of a user must agree. Empty = none."""
    ties_latest: str = "first"
    """Which row of the file is the latest among equal times: first or last."""

    def check(self) -> None:
        """Refuse unknown choices.

        Raises:
            UserError: the sentence names the setting and its choices.
        """
        choices = {
            "header": ("auto", "yes", "no"),
            "decimal": ("", ".", ","),
            "order": ("", *ORDERS),
            "ties_latest": ("first", "last"),
        }
        for name, known in choices.items():
            value = str(getattr(self, name))
            if value not in known:
                hint = nearest(value[:40], [each for each in known if each])
                raise UserError(f"{name}: {value[:40]!r} is unknown; {hint}.")
        if self.order and len(self.columns) > 3 and self.columns[3]:
            raise UserError("order: columns names a timestamp already; give one of the two.")

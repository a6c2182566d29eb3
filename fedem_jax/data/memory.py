"""`federation`: a table in memory -> `Federation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fedem_jax.config.protocol import Protocol, rules_of
from fedem_jax.data.aliases import by_name
from fedem_jax.data.columnar import arrow_table
from fedem_jax.data.federation import Federation
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.readers import interactions_of
from fedem_jax.data.sources import is_known
from fedem_jax.data.split import split
from fedem_jax.errors import UserError


def federation(
    table: Any,
    protocol: str | Protocol = "leak-free",
    seed: int = 0,
    *,
    user: str = "",
    item: str = "",
    rating: str = "",
    time: str = "",
    name: str = "table",
    cohort: str = "",
    order: str = "",
    ties_latest: str = "first",
    val: Any = None,
    test: Any = None,
) -> Federation:
    """Split a table into one client per user, with the checks of a file.

    Args:
        table: a table of pandas, Polars or PyArrow, or any that offers `__arrow_c_stream__`; or a
            dictionary of arrays of equal length.
        protocol: rules of the split, by name or made by `fedem_jax.config.protocol.preset`.
        seed: seed of the sampled candidates that held-out items are ranked against.
        user, item: names of these columns; both empty = found by their usual names.
        rating, time: names of these columns; empty = found by their usual names.
        name: what tables and pictures call the data.
        cohort, order, ties_latest: as in `fedem_jax.data.fileformat.FileFormat`.
        val, test: tables of the held-out rows, if the split is given; `table` then holds the
            training rows. Such tables need no times.

    Raises:
        UserError: as in `fedem_jax.data.readers.read` and `fedem_jax.data.split.split`; or the name
            is that of a known data set, whose published numbers are not those of your table; or
            one of `val` and `test` is missing.

    Examples:
        >>> import numpy as np
        >>> users = np.repeat(["ann", "bob", "cem"], 12)
        >>> items = np.concatenate([np.arange(12) + shift for shift in (0, 40, 100)])
        >>> table = {"user": users, "item": items, "day": np.arange(36)}
        >>> rules = fj.Config(num_candidates=9).rules()
        >>> shop = fj.federation(table, rules, user="user", item="item", time="day", name="shop")
        >>> shop.num_clients, shop.num_items
        (3, 36)
        >>> shop.user_ids.tolist()
        ['ann', 'bob', 'cem']
    """
    if is_known(name):
        raise UserError(f"name: '{name}' is that of a known data set; give another one.")
    if bool(user) != bool(item):
        raise UserError("user, item: give both names, or none to find them.")
    given = val is not None or test is not None
    rules = rules_of(protocol, given)
    if (val is None) != (test is None) or given != (rules.split == "given"):
        raise UserError("val, test: split=given takes both tables, and no other split does.")

    def interactions(rows: Any) -> Interactions:
        arrow = _arrow(rows)
        columns = _columns(arrow.schema.names, user, item, rating, time)
        untimed = given and not (order or time)
        form = FileFormat(
            columns=columns, order="file" if untimed else order, ties_latest=ties_latest,
            cohort=cohort,
        )  # fmt: skip
        form.check()
        return interactions_of(arrow_table(name, arrow, form), form, seed)

    held_out = (interactions(val), interactions(test)) if given else None
    return split(interactions(table), rules, seed, name, held_out)


def _columns(names: list[str], user: str, item: str, rating: str, time: str) -> tuple[str, ...]:
    """The setting `columns`. What has no name here is found by name."""
    if not (user or item or rating or time):
        return ()
    known = {role: names[position] for role, position in by_name(names)[0].items()}
    given = {"user": user, "item": item, "rating": rating, "timestamp": time}
    found = [name or known.get(role, "") for role, name in given.items()]
    taken = [name for name in given.values() if name]
    columns = [
        "" if not mine and name in taken else name
        for mine, name in zip(given.values(), found, strict=True)
    ]
    if not all(columns[:2]):
        raise UserError("user, item: have no column of a usual name; give their names.")
    return tuple(columns)


def _arrow(table: Any) -> pa.Table:
    try:
        if isinstance(table, pa.Table):
            return table
        if isinstance(table, pd.DataFrame):
            return pa.Table.from_pandas(table.rename(columns=str), preserve_index=False)
        if isinstance(table, Mapping):
            return pa.table({str(name): _array(values) for name, values in table.items()})
        if hasattr(table, "__arrow_c_stream__"):
            return pa.table(table)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"table: cannot be read ({reason}); mend the column.") from None
    raise UserError(
        f"table: a {type(table).__name__} is no table; give one of pandas, Polars or PyArrow, or a "
        "dictionary of arrays."
    )


def _array(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    array = np.asarray(values)
    return pa.array(array.tolist() if array.dtype == object else array)

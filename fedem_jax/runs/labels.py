"""Users and items by the labels of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int

from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError

FEW = 3
"""Labels that a sentence gives as examples."""


def clients_of(federation: Federation, users: Iterable[Any] | None) -> Int[np.ndarray, " n"]:
    """The clients of these users; None: all.

    Raises:
        UserError: a user is not in the federation.
    """
    return numbers_of(federation, "users", users)


def items_of(federation: Federation, items: Iterable[Any]) -> Int[np.ndarray, " n"]:
    """The numbers of these items.

    Raises:
        UserError: an item is not in the federation.
    """
    return numbers_of(federation, "items", items)


def numbers_of(
    federation: Federation, kind: str, labels: Iterable[Any] | None
) -> Int[np.ndarray, " n"]:
    """The numbers of users or items. A label may also be given as text, as on the command line.

    Args:
        federation: the data.
        kind: "users" or "items".
        labels: theirs, in any order; None: all, in the order of the federation.

    Raises:
        UserError: a label is not in the federation; the message gives some that are.
    """
    known = (federation.user_ids if kind == "users" else federation.item_ids).tolist()
    if labels is None:
        return np.arange(len(known))
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise UserError(f"{kind}: {labels!r} is one label; give a list of them.")
    number = {label: index for index, label in enumerate(known)}
    as_text = {str(label): index for index, label in enumerate(known)}
    found = []
    for label in (each.item() if isinstance(each, np.generic) else each for each in labels):
        index = number.get(label) if label.__hash__ else None
        index = as_text.get(str(label)) if index is None else index
        if index is None:
            examples = ", ".join(map(str, known[:FEW]))
            raise UserError(
                f"{kind}: {label!r} is none of the {len(known):,} of {federation.name}, such as "
                f"{examples}; those left out by the protocol have no model."
            )
        found.append(index)
    return np.asarray(found, np.int64)

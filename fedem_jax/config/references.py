"""The settings of the references with a closed form: popularity, item-knn and ease.

All data lie in one place, and nothing is drawn. So the seed changes only what is held out and its
candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fedem_jax.config.base import Config
from fedem_jax.config.ranges import Count, Positive, Weight


@dataclass(frozen=True)
class ClosedForm(Config):
    """Settings of the references that are ready after one round."""

    central = True
    one_round = True
    block_on_cpu = 64

    rounds: Count = 1
    """Rounds. The first one computes the model; further ones change nothing."""
    on_nonfinite: Literal["stop"] = "stop"
    """A value that is not finite ends the run, since there are no clients to skip."""

    def without_effect(self) -> tuple[str, ...]:
        return (
            "dim", "local_epochs", "batch_size", "num_negative", "init_scale", "bce",
            "client_fraction",
        )  # fmt: skip

    def lighter(self) -> list[list[dict[str, Any]]]:
        return [change for change in super().lighter() if "dim" not in change[0]]


@dataclass(frozen=True)
class Popularity(ClosedForm):
    """Popularity: the same list for all clients, by the number of clients that trained on an item.
    It is a reference and not federated."""

    method: str = "popularity"

    def without_effect(self) -> tuple[str, ...]:
        return (*super().without_effect(), "table_dtype")

    def lighter(self) -> list[list[dict[str, Any]]]:
        return []


@dataclass(frozen=True)
class ItemKNN(ClosedForm):
    """Item-based nearest neighbours (Sarwar et al., WWW 2001): the cosine similarities of an item
    to the client's items, added up. It is a reference and not federated. The defaults are the best
    of a search on the validation items of ml-100k under leak-free."""

    method: str = "item-knn"
    neighbours: Count = 10
    """Most similar items of an item that count; all, if there are no more."""
    shrinkage: Weight = 10.0
    """Added to the denominator of the cosine, so that items with few clients count less."""


@dataclass(frozen=True)
class EASE(ClosedForm):
    """EASE (Steck, WWW 2019): each item is predicted from all others by ridge regression, in closed
    form. It is a reference and not federated. The default is the best of a search on the
    validation items of ml-100k under leak-free."""

    if_not_finite = "(its matrix is singular in float32); a larger l2 usually helps"

    method: str = "ease"
    l2: Positive = 300.0
    """L2 penalty of the weights between items, lambda in the paper."""

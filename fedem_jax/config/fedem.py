"""The settings of FedEM. The fields of the class are flags of `fedem train`."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Literal

from fedem_jax.config.base import Count, Positive, Range, Weight
from fedem_jax.config.shared import LocalPrivacy, ServedClients
from fedem_jax.errors import UserError, nearest

LEARNED = ("per-batch", "once")
"""Ways of merging in which clients learn the weight rho."""
MERGINGS = (*LEARNED, "replace", "none")
"""Named ways of merging. A number in [0, 1], a constant weight, is the fifth way."""


@dataclass(frozen=True)
class FedEM(LocalPrivacy, ServedClients):
    """FedEM (Chen et al., AAAI 2026). For each client the server averages the tables of similar
    clients. The client merges the result with its own table, by a weight for each item."""

    method: str = "fedem"
    backbone: Literal["mf", "ncf"] = "mf"
    """Model of a client: mf = inner product, as released; ncf = a network of user vector and item
    row, which never leaves the client."""
    lr_embedding: Positive = 0.1
    lr_adapter: Positive = 0.1
    """Step size of the adapter."""
    aggregation: Literal["both", "avg", "sim"] = "both"
    """Aggregation weights: both = sample shares and similarity; avg = sample shares alone; sim =
    similarity alone."""
    similarity: Literal["l2", "cos"] = "l2"
    """Similarity of two item tables: l2 = from their distance; cos = cosine."""
    alpha: Weight = 0.9
    """Weight of the similarity relative to the sample shares (aggregation = both)."""
    merging: str = "per-batch"
    """How a client merges its aggregated table: per-batch, once, replace, none, or a number in
    [0, 1], the constant weight of the aggregated table."""
    adapter: Literal["row", "table"] = "row"
    """What the adapter learns (merging = per-batch or once): row = a weight for each row, by a
    network; table = a single weight for the whole table."""
    adapter_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the adapter."""
    adapter_holdout: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of a client's positives, with their negatives, that only the adapter is fitted on
    (merging = once). It is the same in every round, and local training does not use it. 0, as
    released: both are fitted on all samples."""
    network_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the network (backbone = ncf). This and the next two are as in FedNCF."""
    lr_network: Positive = 0.01
    """Step size of the network."""
    weight_decay: Weight = 1e-3
    """L2 penalty of the network, added to its gradient."""

    def __post_init__(self):
        if isinstance(self.merging, Real) and not isinstance(self.merging, bool):
            object.__setattr__(self, "merging", str(self.merging))
        super().__post_init__()
        if self.adapter_holdout and self.merging != "once":
            raise UserError(
                f"adapter_holdout: {self.adapter_holdout:g} needs an adapter that is fitted "
                "apart from the tables; also give merging=once."
            )
        if self.merging in MERGINGS:
            return
        try:
            share = float(self.merging)
        except ValueError:
            hint = nearest(self.merging[:40], list(MERGINGS))
            raise UserError(
                f"merging: {reprlib.repr(self.merging)} is unknown; {hint}, or a number in [0, 1]."
            ) from None
        if not 0 <= share <= 1:
            raise UserError(f"merging: {self.merging} is no weight; give one in [0, 1].")

    @property
    def downloads(self) -> bool:
        """Whether clients download an aggregated table."""
        return self.merging != "none"

    @property
    def learns_rho(self) -> bool:
        """Whether clients learn rho, the weight of the aggregated table."""
        return self.merging in LEARNED

    @property
    def rho(self) -> float:
        """Weight of the aggregated table if it is constant; NaN if it is learned."""
        if self.learns_rho:
            return math.nan
        constant = {"replace": 1.0, "none": 0.0}
        return constant[self.merging] if self.merging in constant else float(self.merging)

    def merging_by(self, merging: str) -> FedEM:
        """The same settings with another way of merging, and all samples for local training."""
        return dataclasses.replace(self, merging=merging, adapter_holdout=0.0)

    def without_effect(self) -> tuple[str, ...]:
        idle = () if self.backbone == "ncf" else ("network_widths", "lr_network", "weight_decay")
        if not self.learns_rho:
            idle += ("lr_adapter", "adapter", "adapter_widths")
        elif self.adapter == "table":
            idle += ("adapter_widths",)
        if not self.downloads:
            return (*idle, "aggregation", "similarity", "alpha")
        of_weights = {"both": (), "avg": ("similarity", "alpha"), "sim": ("alpha",)}
        return idle + of_weights[self.aggregation]

    def as_program(self, numbers: Collection[str]) -> FedEM:
        program = super().as_program(numbers)
        if self.learns_rho or not self.downloads:
            return program
        # a constant rho is an argument of the program, so that all of them share one
        return dataclasses.replace(program, merging="replace")

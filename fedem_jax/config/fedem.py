"""The settings of FedEM. The fields of the class are flags of `fedem train`."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Literal

from fedem_jax.config.plugins import Backbone
from fedem_jax.config.ranges import Count, Positive, Range, Weight
from fedem_jax.config.shared import (
    FusedClients,
    LocalOptimiser,
    LocalPrivacy,
    ServedClients,
    ServerOptimiser,
)
from fedem_jax.errors import UserError, nearest

LEARNED = ("per-batch", "once")
"""Ways of merging in which clients learn the weight rho."""
MERGINGS = (*LEARNED, "shrinkage", "replace", "none")
"""Named ways of merging. A number in [0, 1], a constant weight, is one more way."""


@dataclass(frozen=True)
class FedEM(LocalPrivacy, ServerOptimiser, LocalOptimiser, FusedClients, ServedClients):
    """FedEM (Chen et al., AAAI 2026). For each client the server averages the tables of similar
    clients. The client merges the result with its own table, by a weight for each item."""

    method: str = "fedem"
    backbone: Backbone = "mf"
    """Model of a client: mf = inner product, as released; ncf = a network of user vector and item
    row, which never leaves the client; or a name that fj.register_backbone was given."""
    lr_embedding: Positive = 0.1
    local_optimiser: Literal["adam", "sgd", "closed-form"] = "adam"
    """How local training moves user vector and item table: adam = both together by Adam, as
    released; sgd = plain gradient steps in turn, first the vector and then the table, as in
    PFedRec; closed-form = as in FCF, the vector in closed form from all items, then a plain step of
    the whole table by lr_embedding, once in each local epoch."""
    confidence: Weight = 4.0
    """Extra weight of an interaction over all other items (local_optimiser = closed-form)."""
    regularization: Positive = 1.0
    """L2 penalty of the user vector (local_optimiser = closed-form)."""
    lr_adapter: Positive = 0.1
    """Step size of the adapter."""
    aggregation: Literal["both", "avg", "sim", "cohort"] = "both"
    """Aggregation weights: both = sample shares and similarity; avg = sample shares alone; sim =
    similarity alone; cohort = sample shares within the declared cohort, drawn to those of all."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Sample shares in the aggregation weights: samples = by number of samples, as released;
    uniform = the same for all clients."""
    common_share: str = "fitted"
    """Share of the mean of all in the table of a cohort (aggregation = cohort): a number in [0, 1],
    or fitted = a share for each row, from how much clients and cohorts differ in it."""
    similarity: Literal["l2", "cos"] = "l2"
    """Similarity of two item tables: l2 = from their distance; cos = cosine."""
    alpha: Weight = 0.9
    """Weight of the similarity relative to the sample shares (aggregation = both)."""
    merging: str = "per-batch"
    """How a client merges its aggregated table: per-batch, once, shrinkage, replace, none, or a
    number in [0, 1], the constant weight of the aggregated table. shrinkage = in closed form: a row
    with more samples takes less."""
    adapter: Literal["row", "table", "features"] = "row"
    """What the adapter learns (merging = per-batch or once): row = a weight for each row, by a
    network; table = a single weight for the whole table; features = a weight for each row, by a
    logistic model of a few features of it (merging = once)."""
    adapter_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the network (adapter = row)."""
    adapter_start: Annotated[float, Range(0.001, 0.999)] = 0.5
    """Rho that the adapter starts from. With adapter = row rho is only near it, since the network
    starts at random. Near 1 a client replaces its table until it learns otherwise."""
    adapter_samples: Literal["trained", "held-out", "held-out-unseen"] = "trained"
    """Samples that the adapter is fitted on: trained = those of local training, as released;
    held-out = positives that local training never uses (merging = once), the same in every round.
    Local training draws them as negatives as often as other items. held-out-unseen = they are never
    drawn; that leaks, as negative_pool = unseen does, and serves to measure this leak."""
    adapter_holdout: Annotated[float, Range(0, 0.9)] = 0.0
    """Mean share of a client's positives that are held out for the adapter (adapter_samples other
    than trained); 0: a fifth."""
    adapter_loss: Literal["cross-entropy", "ranking"] = "cross-entropy"
    """Loss of the adapter, whatever that of local training is: cross-entropy = as released; ranking
    = the loss softmax."""
    adapter_sharing: Literal["none", "average"] = "none"
    """Whether clients share their adapters: none = as released and in the paper; average = they are
    sent along with the tables, and clients start from their mean. That sends more than the paper
    does."""
    adapter_optimiser: Literal["adam", "sgd"] = "adam"
    """Optimiser of the adapter: adam = as released; sgd = plain gradient steps. The first step of
    Adam has the same length for all clients. So a mean of adapters counts how many clients pull one
    way, and with sgd how hard they pull."""
    network_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the network (backbone = ncf). This and the next two are as in FedNCF."""
    lr_network: Positive = 0.01
    """Step size of the network."""
    weight_decay: Weight = 1e-3
    """L2 penalty of the network, added to its gradient."""

    def __post_init__(self):
        if isinstance(self.merging, Real) and not isinstance(self.merging, bool):
            object.__setattr__(self, "merging", str(self.merging))
        if isinstance(self.common_share, Real) and not isinstance(self.common_share, bool):
            object.__setattr__(self, "common_share", str(self.common_share))
        super().__post_init__()
        if not self.fits_common_share:
            _share("common_share", self.common_share, ("fitted",))
        self._refuse_what_does_not_fit()
        if self.merging in MERGINGS:
            return
        _share("merging", self.merging, MERGINGS)

    def _refuse_what_does_not_fit(self) -> None:
        """Refuse settings that have no meaning together."""
        if self.adapter_samples != "trained" and self.merging != "once":
            raise UserError(
                f"adapter_samples: {self.adapter_samples} needs an adapter that is fitted apart "
                "from the tables; also give merging=once."
            )
        if self.adapter_samples == "trained" and self.adapter_holdout:
            raise UserError(
                f"adapter_holdout: {self.adapter_holdout:g} is a share of held-out positives; also "
                "give adapter_samples=held-out, or held-out-unseen for what earlier versions did."
            )
        if self.adapter == "features" and self.merging == "per-batch":
            raise UserError(
                "adapter: features are those of a row before local training, which moves it batch "
                "by batch; also give merging=once."
            )
        if self.closed_form and self.merging == "per-batch":
            raise UserError(
                "local_optimiser: closed-form has no batches to merge in; also give merging=once, "
                "or another way of merging."
            )
        if self.closed_form and self.counts_samples:
            cause = "merging=shrinkage" if self.merging == "shrinkage" else "adapter=features"
            raise UserError(
                f"local_optimiser: closed-form samples nothing, and {cause} counts samples; give "
                "sgd."
            )
        if self.moves_by_adam and self.aggregation != "avg":
            raise UserError(
                "server_optimiser: adam moves one table for all, and "
                f"aggregation={self.aggregation} makes several; also give aggregation=avg, or "
                "server_optimiser=none."
            )
        if self.backbone == "ncf":
            self.refuse_network("backbone=ncf")
        elif self.backbone != "mf" and self.closed_form:
            raise UserError(
                f"local_optimiser: closed-form solves for the user vector of backbone=mf, not of "
                f"{self.backbone}; give adam or sgd."
            )

    @property
    def without_kernel(self) -> str:
        """What keeps local training from being one kernel; empty: nothing."""
        known = {"backbone": ("mf",), "local_optimiser": ("adam", "sgd")}
        if self.merging == "per-batch":
            known |= {
                "adapter": ("row",),
                "adapter_loss": ("cross-entropy",),
                "adapter_optimiser": ("adam",),
            }
            if not self.adapter_widths:
                return "adapter without a hidden layer"
        unknown = (name for name, values in known.items() if getattr(self, name) not in values)
        name = next(unknown, "")
        return f"{name}={getattr(self, name)}" if name else super().without_kernel

    def refusals(self) -> dict[str, str]:
        closed = {"stragglers": "a closed form has no epochs"} if self.closed_form else {}
        return super().refusals() | closed

    @property
    def closed_form(self) -> bool:
        """Whether clients solve for their user vectors."""
        return self.local_optimiser == "closed-form"

    @property
    def fits_common_share(self) -> bool:
        """Whether the share of the common table is fitted, row by row."""
        return self.common_share == "fitted"

    @property
    def common(self) -> float:
        """Share of the mean of all in the table of a cohort if it is constant; else NaN."""
        return math.nan if self.fits_common_share else float(self.common_share)

    @property
    def held_out_share(self) -> float:
        """Mean share of a client's positives that local training never uses."""
        return 0.0 if self.adapter_samples == "trained" else self.adapter_holdout or 0.2

    @property
    def downloads(self) -> bool:
        """Whether clients download an aggregated table."""
        return self.merging != "none"

    @property
    def moves_by_adam(self) -> bool:
        return self.downloads and super().moves_by_adam

    @property
    def learns_rho(self) -> bool:
        """Whether clients learn rho, the weight of the aggregated table."""
        return self.merging in LEARNED

    @property
    def constant_rho(self) -> bool:
        """Whether rho is the same number for all clients, rows and rounds."""
        return not self.learns_rho and self.merging != "shrinkage"

    @property
    def counts_samples(self) -> bool:
        """Whether clients count, row by row, the samples that they trained it on."""
        return self.merging == "shrinkage" or (self.learns_rho and self.adapter == "features")

    @property
    def shares_adapter(self) -> bool:
        """Whether adapters are sent and averaged."""
        return self.learns_rho and self.adapter_sharing == "average"

    @property
    def rho(self) -> float:
        """Weight of the aggregated table if it is constant; else NaN."""
        if not self.constant_rho:
            return math.nan
        constant = {"replace": 1.0, "none": 0.0}
        return constant[self.merging] if self.merging in constant else float(self.merging)

    @property
    def keeps_tables(self) -> bool:
        """Whether clients keep item tables of their own from round to round.

        Where one average replaces the tables of all in every round, no table is read again, and
        none is kept. A client that may sit out, or whose round may be undone, goes on with its own.
        Noise and bounds need whole uploads.
        """
        everybody = self.client_fraction == self.aggregation_fraction == 1 and not self.dropout
        replaced = self.rho == 1 and self.aggregation == "avg" and everybody
        undone, private = self.on_nonfinite == "skip-client", self.ldp_scale or self.ldp_clip
        return bool(not replaced or undone or private)

    def alternatives(self) -> dict[str, FedEM]:
        """What clients would use without this merging, by name. The settings are the same.

        It is their own tables, one table for all, and with cohorts the table of their cohort.

        With cohorts all three share a program.
        """
        if self.aggregation == "cohort":
            changes = {
                "alone": {"merging": "0", "common_share": "0"},
                "one table for all (FedAvg)": {"merging": "replace", "common_share": "1"},
                "its cohort's table": {"merging": "replace", "common_share": "0"},
            }
        else:
            changes = {
                "alone": {"merging": "none"},
                "one table for all (FedAvg)": {"merging": "replace", "aggregation": "avg"},
            }
        found = {}
        for name, change in changes.items():
            other = dataclasses.replace(self.merging_by(change["merging"]), **change)
            if other != self:
                found[name] = other
        return found

    def merging_by(self, merging: str) -> FedEM:
        """The same settings with another way of merging, and all samples for local training."""
        return dataclasses.replace(
            self, merging=merging, adapter_samples="trained", adapter_holdout=0.0
        )

    def without_effect(self) -> tuple[str, ...]:
        idle = (*self.idle_steps(), *self.idle_server(), *self.idle_noise())
        if not self.closed_form:
            idle += ("confidence", "regularization")
        else:
            idle += ("loss",)
            if not self.learns_rho:
                idle += ("batch_size", "num_negative", "threshold")
        fits_by_bce = self.learns_rho and self.adapter_loss == "cross-entropy"
        if not fits_by_bce and (self.closed_form or self.loss != "bce"):
            idle += ("bce",)
        if self.backbone != "ncf":
            idle += ("network_widths", "lr_network", "weight_decay")
        if not self.learns_rho:
            idle += (
                "lr_adapter", "adapter", "adapter_widths", "adapter_start", "adapter_loss",
                "adapter_sharing", "adapter_optimiser",
            )  # fmt: skip
        elif self.adapter != "row":
            idle += ("adapter_widths",)
        if not self.downloads:
            idle += ("server_optimiser",)
            return (*idle, "aggregation", "weighting", "similarity", "alpha", "common_share")
        by_shares = ("similarity", "alpha")
        of_weights = {
            "both": (),
            "avg": by_shares,
            "sim": ("alpha", "weighting"),
            "cohort": by_shares,
        }
        if self.aggregation != "cohort":
            idle += ("common_share",)
        return idle + of_weights[self.aggregation]

    def as_program(self, numbers: Collection[str]) -> FedEM:
        program = super().as_program(numbers)
        if not self.fits_common_share:
            program = dataclasses.replace(program, common_share="0")
        if not self.constant_rho or not self.downloads:
            return program
        # a constant rho is an argument of the program, so that all of them share one: all but the 1
        # of clients that keep no tables
        return dataclasses.replace(program, merging="0" if self.keeps_tables else "replace")


def _share(name: str, text: str, words: tuple[str, ...]) -> None:
    """Refuse a text that is neither one of the words nor a number in [0, 1]."""
    try:
        share = float(text)
    except ValueError:
        hint = nearest(text[:40], list(words))
        raise UserError(
            f"{name}: {reprlib.repr(text)} is unknown; {hint}, or a number in [0, 1]."
        ) from None
    if not 0 <= share <= 1:
        raise UserError(f"{name}: {text} is no weight; give one in [0, 1].")

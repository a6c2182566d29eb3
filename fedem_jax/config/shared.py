"""Settings that several methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fedem_jax.config.base import Config, share_of
from fedem_jax.config.plugins import Loss
from fedem_jax.config.ranges import Positive, Range, Share, Weight
from fedem_jax.errors import UserError
from fedem_jax.models.names import PAIRED_AT_ONCE

Decay = Annotated[float, Range(0, 0.9999)]
"""Decay of a running mean: the share that a step keeps."""


@dataclass(frozen=True)
class SampledClients(Config):
    """Clients that train by mini-batches of samples."""

    loss: Loss = "bce"
    """Loss of local training: bce = cross-entropy of each sample, in the form that the setting bce
    names; bpr = minus the log of the sigmoid of z_p - z_n, mean over all pairs of a positive p and
    a negative n of a batch; softmax = minus the log of the softmax of a positive among the
    negatives of its batch; or a name that fj.register_loss was given."""

    @property
    def pairs(self) -> int:
        """Numbers that a step keeps for pairs of its samples; a registered loss may have all."""
        at_once = {"bce": 0, "softmax": 0, "bpr": 2 * PAIRED_AT_ONCE}
        return 2 * self.batch_size * at_once.get(self.loss, self.batch_size)

    def without_effect(self) -> tuple[str, ...]:
        return super().without_effect() if self.loss == "bce" else ("bce",)


@dataclass(frozen=True)
class AdamClients(SampledClients):
    """Clients that train by Adam until their loss settles. Adam starts anew in every round."""

    lr_embedding: Positive = 0.01
    """Step size of user vector and item table."""
    threshold: Weight = 1e-4
    """A client stops early if its running loss changes by less than this share in an epoch."""


MOST_PLACES = 1024
"""Most samples of a step that the registers of a kernel have room for."""


@dataclass(frozen=True)
class FusedClients(SampledClients):
    """Clients whose local training may be one kernel."""

    local_training: Literal["auto", "xla", "fused"] = "auto"
    """How a client trains. xla = about ten kernels a step; fused = one kernel for all its epochs;
    auto = fused on a GPU, where it passes a self-test, else xla. The numbers agree to about 1e-5. A
    CPU interprets the kernel, which is slow."""

    @property
    def without_kernel(self) -> str:
        """What keeps local training from being one kernel; empty: nothing."""
        if self.loss != "bce":
            return f"loss={self.loss}"
        return f"batch_size={self.batch_size}" if self.batch_size > MOST_PLACES else ""

    def __post_init__(self):
        super().__post_init__()
        if self.local_training == "fused" and self.without_kernel:
            raise UserError(
                f"local_training: fused has no kernel for {self.without_kernel}; give xla."
            )


def is_fused(config: Config) -> bool:
    """Whether the settings name one kernel for local training."""
    return isinstance(config, FusedClients) and config.local_training == "fused"


@dataclass(frozen=True)
class ServedClients(AdamClients):
    """Such clients, some of which get a table of their own from the server."""

    aggregation_fraction: Share = 0.1
    """Share of the training clients that are aggregated. They download the result in the next
    round."""

    def uploads(self, participants: int) -> int:
        return max(1, share_of(participants, self.aggregation_fraction))

    def lighter(self) -> list[list[dict[str, Any]]]:
        shares = (self.aggregation_fraction / 2**halvings for halvings in range(1, 8))
        return [*super().lighter(), [{"aggregation_fraction": share} for share in shares]]


@dataclass(frozen=True)
class LocalOptimiser:
    """Settings of clients that train their user vector and item table by one of several optimisers.

    It is no subclass of `Config`, so that any class of settings can add it.
    """

    local_optimiser: Literal["adam", "sgd"] = "adam"
    """How local training moves user vector and item table: adam = both together by Adam, as
    released; sgd = plain gradient steps in turn, first the vector and then the table, as in
    PFedRec."""
    lr_item_factor: Positive = 80.0
    """Step size of the item table, as a multiple of lr_embedding times the number of items
    (local_optimiser = sgd). The step size of the user vector is lr_embedding."""

    def idle_steps(self) -> tuple[str, ...]:
        """Names of these settings that change nothing."""
        return () if self.local_optimiser == "sgd" else ("lr_item_factor",)

    def refuse_network(self, which: str) -> None:
        """Refuse plain steps for a client that also trains a network.

        Raises:
            UserError: they are asked for; `which` names the network's setting or method.
        """
        if self.local_optimiser != "adam":
            raise UserError(
                f"local_optimiser: {self.local_optimiser} trains a user vector and a table, and no "
                f"network as {which} has it; give adam."
            )


@dataclass(frozen=True)
class ServerOptimiser:
    """Settings of a server that moves one table for all.

    It is no subclass of `Config`, so that any class of settings can add it.
    """

    server_optimiser: Literal["none", "adam"] = "none"
    """How the server moves its table: none = to the average of the uploads, as released; adam = by
    a step of Adam along the way there (FedAdam, Reddi et al. 2021), whose moments are kept over the
    rounds."""
    lr_server: Positive = 0.05
    """Step size of the server (server_optimiser = adam). This and the next two are as in FCF."""
    beta1: Decay = 0.4
    """Decay of the first moments of the server's Adam."""
    beta2: Decay = 0.99
    """Decay of the second moments of the server's Adam."""
    server_decay: Weight = 0.0
    """L2 penalty of the server's table (server_optimiser = adam): the step goes along the average
    move of the clients, less this multiple of the table."""

    @property
    def moves_by_adam(self) -> bool:
        """Whether the server moves its table by Adam."""
        return self.server_optimiser == "adam"

    def idle_server(self) -> tuple[str, ...]:
        """Names of these settings that change nothing."""
        return () if self.moves_by_adam else ("lr_server", "beta1", "beta2", "server_decay")


@dataclass(frozen=True)
class MaskedUploads:
    """Settings of clients whose uploads are added up and used in no other way.

    It is no subclass of `Config`, so that any class of settings can add it.
    """

    secure_sum: bool = False
    """Whether clients mask their uploads, so that the server learns nothing but their sum. Sums are
    then of integers, in steps of 1e-6. The work grows with the square of the clients in a round."""

    def refuse_lost_masks(self, config: Any) -> None:
        """Refuse masks beside what they do not go with.

        Args:
            config: all settings.

        Raises:
            UserError: uploads may be missing, whose masks would be missing, too; or uploads have
                noise, which clients would have to add before they mask.
        """
        if not self.secure_sum:
            return
        if config.dropout or config.on_nonfinite == "skip-client":
            raise UserError(
                "secure_sum: the masks of an upload that is missing would spoil the sum; give "
                "dropout 0 and on_nonfinite stop."
            )
        if config.ldp_scale:
            raise UserError("secure_sum: masks over noise are not simulated; give ldp_scale 0.")


@dataclass(frozen=True)
class LocalPrivacy:
    """Settings of clients that bound their uploads and add noise to them.

    It is no subclass of `Config`, so that any class of settings can add it.
    """

    switches = ("ldp_scale", "ldp_clip")

    ldp_scale: Weight = 0.0
    """Scale of the noise on each number of an upload; 0: no noise. Without ldp_clip it gives no
    guarantee (docs/privacy.md)."""
    ldp_clip: Weight = 0.0
    """Bound of the norm of an upload minus the table that the server knows; 0: no bound. Larger
    moves are scaled down. The server knows the last download, in FedEM the initial table."""
    ldp_noise: Literal["laplace", "gaussian"] = "laplace"
    """Kind of that noise, and norm of that bound: laplace = Laplace noise of this scale, L1 norm;
    gaussian = normal noise of this standard deviation, L2 norm."""

    ldp_delta: Annotated[float, Range(0, 0.1, open=True)] = 1e-5
    """Delta of the epsilon in the summary (ldp_noise = gaussian); as a rule, less than one over the
    number of clients. It changes no result."""

    @property
    def averages_evenly(self) -> bool:
        """Whether all that the server hands out is the plain mean of the uploads."""
        return False

    def idle_noise(self) -> tuple[str, ...]:
        """Names of these settings that change nothing."""
        kind = () if self.ldp_scale or self.ldp_clip else ("ldp_noise",)
        counts = self.ldp_noise == "gaussian" and self.ldp_scale and self.ldp_clip
        return kind if counts else (*kind, "ldp_delta")

"""Settings that several methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fedem_jax.config.base import Config, Positive, Range, Share, Weight

Decay = Annotated[float, Range(0, 0.9999)]
"""Share of a running mean that is kept in a step."""


@dataclass(frozen=True)
class AdamClients(Config):
    """Clients that train by Adam, made anew in every round, until their loss settles."""

    lr_embedding: Positive = 0.01
    """Step size of user vector and item table."""
    threshold: Weight = 1e-4
    """A client stops early once its running loss changes by less than this share in an epoch."""


@dataclass(frozen=True)
class ServedClients(AdamClients):
    """Such clients, of which some get a table of their own from the server."""

    aggregation_fraction: Share = 0.1
    """Share of the training clients that are aggregated, and take up the result in the next
    round."""

    def round_sizes(self, num_clients: int) -> tuple[int, int]:
        participants, _ = super().round_sizes(num_clients)
        return participants, max(1, int(participants * self.aggregation_fraction))

    def lighter(self) -> list[list[dict[str, Any]]]:
        shares = (self.aggregation_fraction / 2**halvings for halvings in range(1, 8))
        return [*super().lighter(), [{"aggregation_fraction": share} for share in shares]]


@dataclass(frozen=True)
class LocalPrivacy:
    """Clients that may bound what they upload, and add noise to it.

    It stands beside `Config`, not below it, so that methods of every kind may have it.
    """

    switches = ("ldp_scale", "ldp_clip")

    ldp_scale: Weight = 0.0
    """Scale of the Laplace noise that a client adds to each number that it uploads; 0: none. It is
    no guarantee without ldp_clip (docs/privacy.md)."""
    ldp_clip: Weight = 0.0
    """Most L1 norm of what an upload adds to the table that the server knows, the last download (in
    FedEM the initial table); more is scaled down; 0: no bound."""

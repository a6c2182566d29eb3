"""The settings of all methods but FedEM. The fields of a class are flags of `fedem train`.

Defaults are those of the released programs, with two exceptions. The protocol is `leak-free`, and
values that a program sets for single data sets stand in `presets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedem_jax.config.base import Config
from fedem_jax.config.ranges import Count, Natural, Portion, Positive, Share, Weight
from fedem_jax.config.shared import (
    AdamClients,
    Decay,
    FusedClients,
    LocalOptimiser,
    LocalPrivacy,
    MaskedUploads,
    SampledClients,
    ServedClients,
    ServerOptimiser,
)
from fedem_jax.errors import UserError


@dataclass(frozen=True)
class LocalOnly(FusedClients, AdamClients):
    """Local-only: every client trains the client model of FedEM alone."""

    method: str = "local-only"
    lr_embedding: Positive = 0.1

    def refusals(self) -> dict[str, str]:
        return super().refusals() | {"dropout": "its clients upload nothing"}


@dataclass(frozen=True)
class CentralMF(Config):
    """Centralised matrix factorisation: all data in one place, as a reference. No program was
    released. The defaults are the best of about 30 settings on the validation items of ml-100k
    under leak-free."""

    central = True

    method: str = "central-mf"
    on_nonfinite: Literal["stop"] = "stop"
    """A value that is not finite ends the run, since there are no clients to skip."""
    local_epochs: Count = 1
    """Passes over the samples of a round, which are drawn anew in every round."""
    batch_size: Count = 1024
    """Samples of a step, from all clients; the last batch of an epoch may hold fewer."""
    lr_embedding: Positive = 0.003
    """Step size of user vectors and item table."""
    weight_decay: Weight = 5e-6
    """L2 penalty of user vectors and item table, added to their gradients."""
    loss: Literal["bce", "bpr"] = "bce"
    """bce = cross-entropy of positives and negatives; bpr = cross-entropy of each negative against
    its positive (the setting `bce` then has no effect)."""
    init_scale: Positive = 0.1

    def without_effect(self) -> tuple[str, ...]:
        return ("bce",) if self.loss == "bpr" else ()


@dataclass(frozen=True)
class FedMF(
    MaskedUploads, LocalPrivacy, ServerOptimiser, LocalOptimiser, FusedClients, AdamClients
):
    """FedMF, also known as FedAvg of matrix factorisation. The average of the item tables replaces
    the table of every client. User vectors never leave the clients. Defaults: program of FedCA."""

    method: str = "fedmf"
    weighting: Literal["samples", "uniform"] = "samples"
    """Weights of the clients in the average: samples = by number of samples; uniform = equal."""
    evaluated: Literal["global", "local"] = "global"
    """Item table for ranking: global = the new average; local = the own one before the download."""

    def __post_init__(self):
        super().__post_init__()
        self.refuse_lost_masks(self)

    @property
    def averages_evenly(self) -> bool:
        return self.weighting == "uniform"

    def without_effect(self) -> tuple[str, ...]:
        idle = (*self.idle_steps(), *self.idle_server(), *self.idle_noise())
        return (*super().without_effect(), *idle)


@dataclass(frozen=True)
class FCF(Config):
    """FCF (Ammad-ud-din et al. 2019). Clients solve for their user vectors in closed form, from all
    items. The server updates the item table by Adam with the summed gradients. No program was
    released. The defaults are the best of about 40 settings on the validation items of ml-100k
    under leak-free. Nothing is sampled, so local_epochs, batch_size, num_negative and bce have no
    effect."""

    method: str = "fcf"
    on_nonfinite: Literal["stop"] = "stop"
    """A value that is not finite ends the run. Clients train nothing that could diverge."""
    confidence: Weight = 4.0
    """Extra weight of an interaction over all other items: c = 1 + confidence."""
    regularization: Positive = 1.0
    """L2 penalty of user vectors and item table."""
    lr_server: Positive = 0.05
    """Step size of the server."""
    beta1: Decay = 0.4
    """Decay of the first moments of the server's Adam, as in the paper."""
    beta2: Decay = 0.99
    """Decay of the second moments of the server's Adam, as in the paper."""
    server_steps: Count = 1
    """Steps of the server in a round; each follows an exchange of gradients with the clients."""
    init_scale: Positive = 0.1

    def refusals(self) -> dict[str, str]:
        return super().refusals() | {"stragglers": "a closed form has no epochs"}

    def without_effect(self) -> tuple[str, ...]:
        return ("local_epochs", "batch_size", "num_negative", "bce")


@dataclass(frozen=True)
class FedNCF(FedMF):
    """FedNCF (Perifanis, Efraimidis 2022). A network scores user vector and item row. Item table
    and network are averaged. Defaults: program of FedCA."""

    method: str = "fedncf"
    local_training: Literal["xla"] = "xla"
    """How a client trains: a network has no kernel of its own."""
    variant: Literal["mlp", "neumf"] = "mlp"
    """Network: mlp = layers over both vectors, as released. neumf = as in the paper: layers over
    the second halves of both vectors, beside the product of their first halves."""
    network_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the network."""
    lr_network: Positive = 0.01
    """Step size of the network."""
    weight_decay: Weight = 1e-3
    """L2 penalty of the network, added to its gradient."""

    def __post_init__(self):
        super().__post_init__()
        self.refuse_network("fedncf")
        if self.variant == "neumf" and self.dim < 2:
            raise UserError("dim: neumf splits the vectors in two halves; give at least 2.")


@dataclass(frozen=True)
class PFedRec(MaskedUploads, LocalPrivacy, ServerOptimiser, SampledClients):
    """PFedRec (Zhang et al., IJCAI 2023). Every client has its own score function and fine-tunes
    an averaged item table."""

    # the published method ranks with a table that profits from a leak; the variant does not
    variants = ("evaluated=global",)

    method: str = "pfedrec"
    dim: Count = 32
    local_epochs: Count = 1
    lr_network: Positive = 0.1
    """Step size of the score function."""
    lr_item_factor: Positive = 80.0
    """Step size of the item table, as a multiple of lr_network times the number of items."""
    evaluated: Literal["local", "global"] = "local"
    """Item table for ranking: local = the own one before the download; global = the new average."""

    def __post_init__(self):
        super().__post_init__()
        self.refuse_lost_masks(self)

    @property
    def averages_evenly(self) -> bool:
        return True

    def without_effect(self) -> tuple[str, ...]:
        return (*super().without_effect(), *self.idle_server(), *self.idle_noise())


@dataclass(frozen=True)
class GPFedRec(SampledClients):
    """GPFedRec (Zhang et al., KDD 2024). Item tables are aggregated over a graph of the clients and
    guide local training. Clients download the mean of the aggregated tables."""

    switches = ("ldp_scale",)

    method: str = "gpfedrec"
    dim: Count = 32
    local_epochs: Count = 1
    network_widths: tuple[Count, ...] = (32, 16, 8)
    """Hidden widths of the network of each client."""
    lr_network: Positive = 0.1
    """Step size of the network."""
    lr_factor: Positive = 80.0
    """Factor of two step sizes, as released: lr_network (lr_factor - 1) for the user vector, and
    lr_network (lr_factor I - 1) for the table of I items."""
    regularization: Weight = 1.0
    """Weight of the pull of the item table towards the one aggregated for the client."""
    graph: Literal["distance", "similarity"] = "distance"
    """Neighbours: distance = the most dissimilar clients, as released; similarity = the most
    similar ones, as in the paper."""
    neighbours: Natural = 0
    """Neighbours of each client; 0: all above a threshold."""
    neighbour_threshold: Weight = 1.0
    """That threshold, as a multiple of the mean entry of the graph."""
    layers: Count = 1
    """Aggregation steps over the graph."""
    ldp_scale: Weight = 0.0
    """Scale of the Laplace noise on each number of an upload; 0: no noise. It gives no guarantee,
    since uploads are not bounded."""

    def __post_init__(self):
        super().__post_init__()
        if self.client_fraction < 1:
            raise UserError(
                f"client_fraction: {self.client_fraction:g} leaves clients out of the graph of "
                "gpfedrec, which holds all of them; give 1."
            )

    def refusals(self) -> dict[str, str]:
        return super().refusals() | {"dropout": "its graph holds the tables of all clients"}

    def without_effect(self) -> tuple[str, ...]:
        threshold = ("neighbour_threshold",) if self.neighbours else ()
        return (*super().without_effect(), *threshold)


@dataclass(frozen=True)
class FedRAP(SampledClients):
    """FedRAP (Li et al., ICLR 2024). Clients add a personal item table to a common one. Only the
    common table is averaged."""

    method: str = "fedrap"
    dim: Count = 32
    batch_size: Count = 2048
    lr_network: Positive = 0.5
    """Step size of the score function."""
    lr_embedding: Positive = 200.0
    """Step size of both item tables."""
    independence: Weight = 0.1
    """Weight of the reward for the distance between the two tables, lambda in the paper."""
    sparsity: Weight = 0.1
    """Weight of the penalty of the common table, mu in the paper."""
    sparsity_norm: Literal["l1", "l2"] = "l1"
    """Norm of that penalty."""
    schedule: Literal["constant", "tanh"] = "constant"
    """Both weights over the rounds r = 0, 1, ...: constant = as released; tanh = multiplied by
    tanh(r / 10), as in the paper."""
    weight_decay: Weight = 1e-4
    """L2 penalty of all parameters, added to the gradients."""
    decay_per_batch: Share = 0.95
    """Factor of the step sizes after every batch."""
    decay_per_round: Share = 0.97
    """Factor of the step sizes after every round."""
    threshold: Weight = 1e-4
    """A client stops early if its running loss changes by less than this share in an epoch."""

    def without_effect(self) -> tuple[str, ...]:
        norm = () if self.sparsity else ("sparsity_norm",)
        schedule = () if self.sparsity or self.independence else ("schedule",)
        return (*super().without_effect(), *norm, *schedule)


@dataclass(frozen=True)
class FedCA(ServedClients):
    """FedCA (Zhang et al. 2024). Aggregation weights come from sample share, similarity and
    complementarity. A client keeps most of its own table."""

    method: str = "fedca"
    similarity_weight: Weight = 0.3
    """Weight of the similarity of two item tables."""
    complementarity_weight: Weight = 0.3
    """Weight of the agreement of the subspaces that the items of two clients span."""
    directions: Count = 4
    """Principal directions of such a subspace; at most dim."""
    subspace: Literal["samples", "interactions"] = "samples"
    """Items that span it: samples = all sampled items, also negatives, as released; interactions =
    training positives, as in the paper."""
    matching: Literal["greedy", "angles"] = "greedy"
    """Agreement of two subspaces: greedy = directions matched greedily, with their signs, as
    released; angles = principal angles."""
    interpolation: Portion = 0.9
    """Weight of its own table when a client merges its download."""


@dataclass(frozen=True)
class CoFedRec(SampledClients):
    """CoFedRec (He et al., WWW 2024). In each round a random group of similar clients downloads its
    mean table. Clusters of the items guide local training by a contrastive loss."""

    method: str = "cofedrec"
    dim: Count = 32
    local_epochs: Count = 2
    lr_network: Positive = 0.1
    """Step size of the score function."""
    lr_item_factor: Positive = 80.0
    """Step size of the item table, as a multiple of lr_network times the number of items."""
    num_clusters: Count = 30
    """Clusters of the items; at most the number of items."""
    contrast: Weight = 0.005
    """Weight of the contrastive loss over the clusters."""
    temperature: Positive = 0.1
    """Temperature of that loss."""
    base_temperature: Positive = 0.5
    """That loss is multiplied by temperature / base_temperature."""

    def without_effect(self) -> tuple[str, ...]:
        of_contrast = () if self.contrast else ("temperature", "base_temperature")
        return (*super().without_effect(), *of_contrast)

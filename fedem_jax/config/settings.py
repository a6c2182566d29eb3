"""The settings of the methods beside FedEM: the fields of a class are flags of `fedem train`.

Defaults are those of the released programs, with two exceptions that hold for all: the protocol,
and whatever a program tunes on the data set, which `presets.py` holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedem_jax.config.base import Config, Count, Natural, Portion, Positive, Share, Weight
from fedem_jax.config.shared import AdamClients, Decay, LocalPrivacy, ServedClients
from fedem_jax.errors import UserError


@dataclass(frozen=True)
class LocalOnly(AdamClients):
    """Local-only: every client trains the client model of FedEM by itself."""

    method: str = "local-only"
    lr_embedding: Positive = 0.1


@dataclass(frozen=True)
class CentralMF(Config):
    """Centralised matrix factorisation: all data in one place, as a reference. There is no
    released program; the defaults are the best of some 30 settings on the validation items of
    ml-100k under leak-free."""

    central = True

    method: str = "central-mf"
    on_nonfinite: Literal["stop"] = "stop"
    """What is not finite ends the run: there are no clients to skip."""
    local_epochs: Count = 1
    """Passes over a round's samples, which are drawn anew in every round."""
    batch_size: Count = 1024
    """Samples of one step, from all clients; the last batch of an epoch may hold fewer."""
    lr_embedding: Positive = 0.003
    """Step size of user vectors and item table."""
    weight_decay: Weight = 5e-6
    """L2 penalty of user vectors and item table, added to their gradients."""
    loss: Literal["bce", "bpr"] = "bce"
    """bce = cross-entropy of positives and negatives; bpr = of each negative against its positive
    (the setting `bce` then has no effect)."""
    init_scale: Positive = 0.1


@dataclass(frozen=True)
class FedMF(LocalPrivacy, AdamClients):
    """FedMF (also FCF, FedAvg of matrix factorisation): the item table is averaged and replaces
    every client's; user vectors stay at home. As in the program of FedCA."""

    method: str = "fedmf"
    weighting: Literal["samples", "uniform"] = "samples"
    """Weights of the clients in the average."""
    evaluated: Literal["global", "local"] = "global"
    """Item table that clients rank with: the new average, or their own before its download."""


@dataclass(frozen=True)
class FCF(Config):
    """FCF (Ammad-ud-din et al. 2019): user vectors in closed form from all items; the server moves
    the item table by Adam along the summed gradients. There is no released program; the defaults
    are the best of some 40 settings on the validation items of ml-100k under leak-free. Nothing is
    sampled: local_epochs, batch_size, num_negative and bce have no effect."""

    method: str = "fcf"
    on_nonfinite: Literal["stop"] = "stop"
    """What is not finite ends the run: clients solve for their vectors, nothing there explodes."""
    confidence: Weight = 4.0
    """Weight of an interaction over the rest: c = 1 + confidence."""
    regularization: Positive = 1.0
    """L2 penalty of user vectors and item table."""
    lr_server: Positive = 0.05
    """Step size of the server."""
    beta1: Decay = 0.4
    """Decay of the first moments of the server's Adam, as in the paper."""
    beta2: Decay = 0.99
    """Decay of its second moments, as in the paper."""
    server_steps: Count = 1
    """Gradient exchanges with the clients in a round, each followed by a step of the server."""
    init_scale: Positive = 0.1


@dataclass(frozen=True)
class FedNCF(FedMF):
    """FedNCF (Perifanis, Efraimidis 2022): user vector and item row through a network; item table
    and network are averaged. As in the program of FedCA."""

    method: str = "fedncf"
    variant: Literal["mlp", "neumf"] = "mlp"
    """Network: mlp = layers over both vectors, as released; neumf = beside them the product of the
    vectors, for which each gives its first half, as in the paper."""
    network_widths: tuple[Count, ...] = (16, 8)
    """Hidden widths of the network."""
    lr_network: Positive = 0.01
    """Step size of the network."""
    weight_decay: Weight = 1e-3
    """L2 penalty of the network, added to its gradient."""

    def __post_init__(self):
        super().__post_init__()
        if self.variant == "neumf" and self.dim < 2:
            raise UserError("dim: 1 leaves neumf nothing to share out; give at least 2.")


@dataclass(frozen=True)
class PFedRec(LocalPrivacy, Config):
    """PFedRec (Zhang et al., IJCAI 2023): a score function of its own for every client, over an
    averaged item table that it fine-tunes."""

    variants = ("evaluated=global",)

    method: str = "pfedrec"
    dim: Count = 32
    local_epochs: Count = 1
    lr_network: Positive = 0.1
    """Step size of the score function."""
    lr_item_factor: Positive = 80.0
    """Step size of the item table, as a multiple of lr_network times the number of items."""
    evaluated: Literal["local", "global"] = "local"
    """Item table that clients rank with: their own before the download, or the new average."""


@dataclass(frozen=True)
class GPFedRec(Config):
    """GPFedRec (Zhang et al., KDD 2024): item tables aggregated over a graph of the clients guide
    local training; their mean is downloaded."""

    switches = ("ldp_scale",)

    method: str = "gpfedrec"
    dim: Count = 32
    local_epochs: Count = 1
    network_widths: tuple[Count, ...] = (32, 16, 8)
    """Hidden widths of each client's own network."""
    lr_network: Positive = 0.1
    """Step size of the network."""
    lr_factor: Positive = 80.0
    """Step sizes of user vector and item table, as multiples of lr_network; the item table's also
    times the number of items. One lr_network is taken off both (released program)."""
    regularization: Weight = 1.0
    """Pull of the item table towards the one aggregated for the client."""
    graph: Literal["distance", "similarity"] = "distance"
    """Neighbours: the most dissimilar clients, as the released program has it, or the most
    similar ones, as the paper says."""
    neighbours: Natural = 0
    """Neighbours of each client; 0: all beyond a threshold."""
    neighbour_threshold: Weight = 1.0
    """That threshold, as a multiple of the graph's mean entry."""
    layers: Count = 1
    """Steps over the graph."""
    ldp_scale: Weight = 0.0
    """Scale of the Laplace noise that a client adds to each number that it uploads; 0: none. It is
    no guarantee, since the table is not bounded."""

    def __post_init__(self):
        super().__post_init__()
        if self.client_fraction < 1:
            raise UserError(
                f"client_fraction: {self.client_fraction:g} leaves clients out of the graph of "
                "gpfedrec, which holds all of them; give 1."
            )


@dataclass(frozen=True)
class FedRAP(Config):
    """FedRAP (Li et al., ICLR 2024): a personal item table added to a common one; only the common
    one is averaged."""

    method: str = "fedrap"
    dim: Count = 32
    batch_size: Count = 2048
    lr_network: Positive = 0.5
    """Step size of the score function."""
    lr_embedding: Positive = 200.0
    """Step size of both item tables."""
    independence: Weight = 0.1
    """Reward for the distance between the two tables, lambda of the paper."""
    sparsity: Weight = 0.1
    """Penalty of the common table, mu of the paper."""
    sparsity_norm: Literal["l1", "l2"] = "l1"
    """Norm of that penalty."""
    schedule: Literal["constant", "tanh"] = "constant"
    """Both weights: constant, as the released program has it, or rising from 0 as tanh(r / 10) over
    the rounds r = 0, 1, ..., as the paper says."""
    weight_decay: Weight = 1e-4
    """L2 penalty of everything, added to the gradients."""
    decay_per_batch: Share = 0.95
    """Factor of the step sizes after every batch."""
    decay_per_round: Share = 0.97
    """Factor of the step sizes after every round."""
    threshold: Weight = 1e-4
    """A client stops early once its running loss changes by less than this share in an epoch."""


@dataclass(frozen=True)
class FedCA(ServedClients):
    """FedCA (Zhang et al. 2024): aggregation weights from sample share, similarity and
    complementarity; the client keeps most of its own table."""

    method: str = "fedca"
    similarity_weight: Weight = 0.3
    """Weight of the similarity between the clients' tables."""
    complementarity_weight: Weight = 0.3
    """Weight of the agreement between the subspaces of their items."""
    directions: Count = 4
    """Principal directions that span such a subspace; at most dim."""
    subspace: Literal["samples", "interactions"] = "samples"
    """Items that span it: all that were sampled, negatives too, as the released program has it, or
    those interacted with, as the paper says."""
    matching: Literal["greedy", "angles"] = "greedy"
    """Agreement of two subspaces: directions matched greedily, with their signs, as the released
    program has it, or principal angles."""
    interpolation: Portion = 0.9
    """Share of its own table that a client keeps."""


@dataclass(frozen=True)
class CoFedRec(Config):
    """CoFedRec (He et al., WWW 2024): a random group of clients with similar taste takes up its
    mean table; clusters of the items guide local training by contrast."""

    method: str = "cofedrec"
    dim: Count = 32
    local_epochs: Count = 2
    lr_network: Positive = 0.1
    """Step size of the score function."""
    lr_item_factor: Positive = 80.0
    """Step size of the item table, as a multiple of lr_network times the number of items."""
    num_clusters: Count = 30
    """Clusters of the items; never more than there are items."""
    contrast: Weight = 0.005
    """Weight of the contrastive loss over the clusters."""
    temperature: Positive = 0.1
    """Its temperature."""
    base_temperature: Positive = 0.5
    """Its loss is multiplied by temperature / base_temperature."""

"""FedCA (Zhang et al. 2024): federated recommendation with composite aggregation; after the
released program, with matrix factorisation as backbone.

    clients, in parallel:  Q_u <- rho Q_u + (1 - rho) G_u, if it was served in the last round
                           (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           V_u <- first k principal directions of the rows of Q_u that it sampled
                           upload Q_u, V_u, n_u
    server, over A of them:  s_uv = similarity of the tables' first principal scores
                             c_uv = cos(mean angle between matched directions of V_u and V_v)
                             w_u  = projection of p + a c_u + b s_u onto the simplex
                             G_u  = sum_v w_uv Q_v, downloaded by u;  p_v = n_v / sum n

c_uv is called complementarity, but is largest for subspaces that agree.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.local import batch_weights, fit_embedding
from fedem_jax.client.merging import taken_up
from fedem_jax.config.settings import FedCA
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, copies, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.linalg import canonical_sign, eigensystem
from fedem_jax.core.round import Change, Phase, RoundContext, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import Scoring, initial, scoring
from fedem_jax.server.aggregation import normalised, project_to_simplex, sample_shares
from fedem_jax.server.complementarity import complementarity
from fedem_jax.server.serving import (
    NOT_SERVED,
    first_tables,
    not_served,
    rows_of,
    served,
    slots,
    waits,
)
from fedem_jax.server.shares import (
    aggregate_shares,
    aggregation_scratch,
    share_size,
    shares_of,
    signatures,
)
from fedem_jax.server.similarity import l2_similarity, saturate


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    similarity_weight: Float[Array, ""]
    """b."""
    complementarity_weight: Float[Array, ""]
    """a."""
    interpolation: Float[Array, ""]
    """Share of its own table that a client keeps, rho."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] user vectors p_u; they never leave a client."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table, before interpolation."""
    directions: Float[Array, "C k D"]
    """V_u of the client's last round, unit vectors; the first varies most."""
    slot: Int[Array, " C"]
    """Row of the tables on its device that the client was served with; -1: none."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients."""

    items: Num[Array, "A2 I D"]
    """Divided over the devices, as in `server.shares`."""
    directions: Float[Array, "A k D"]
    samples: Int[Array, " A"]


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated."""

    items: Any
    """[A I D] G_u, of which a device holds those of its own clients (`server.serving`)."""


def fedca(config: FedCA, layout: Layout) -> Algorithm:
    """FedCA on one federation; the arguments are those of `local_only`."""
    backbone, stored = MF(config.dim), storage_dtype(config)
    model = scoring(backbone, config.bce, config.loss)
    num_directions = min(config.directions, config.dim)
    _, num_served = config.round_sizes(layout.num_clients)
    for_served = layout.classes_for(num_served)
    for_others = layout.classes_for(layout.num_clients - num_served)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0 and p_0."""
        private, table = initial(backbone, key, layout.num_items, config.dim, hyper.init_scale)
        directions = jnp.zeros((num_directions, config.dim))
        table = to_storage(table, stored)
        clients = Clients(private, table, directions, slot=jnp.int32(NOT_SERVED))
        nothing = first_tables(config, layout, num_served, table.shape, stored)
        return State(copies(clients, layout), Download(nothing))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        phases = [
            Phase(partial(train_own, config, model, hyper), not_served, for_others),
            Phase(partial(take_up_and_train, config, model, hyper), served, for_served),
        ]
        clients, info, _ = train_clients(context, phases, state)
        uploaders = draws.uploaders(context.participants)
        upload = Upload(
            shares_of(layout, clients.items, uploaders),
            clients.directions[layout.places(uploaders)],
            context.samples_of(uploaders),
        )
        download = serve(config, layout, upload, hyper, state.server, uploaders)
        slot = slots(layout, uploaders, rows_of(config, layout, uploaders))
        return State(clients._replace(slot=slot), download), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: interpolated, if a table
        waits."""
        private = at_place(state.clients.private, places)
        return jax.vmap(model.logits)(private, item_tables(state, places, hyper))

    table = table_bytes(config, layout.num_items)
    up = num_served * (table + 4 * num_directions * config.dim + 4)
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        classes={"own rows": for_others, "merging": for_served},
        traffic=Traffic(up=up, down=num_served * table),
        scratch=partial(scratch, config, layout),
        item_tables=item_tables,
        lapses={"slot": NOT_SERVED},
        moves_all=num_served / layout.num_clients,
    )


# --- what a client does ---------------------------------------------------------------------------


def item_tables(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I D"]:
    """Q_u, interpolated with G_u if it waits for the client."""
    local, slot = at_place((state.clients.items, state.clients.slot), places)

    def take_up(local):
        waiting = from_storage(state.server.items[slot])
        return interpolated(local, waiting, hyper.interpolation)

    return taken_up(waits(slot), from_storage(local), take_up)


def train_own(
    config: FedCA,
    model: Scoring,
    hyper: Hyper,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """A client that was not served: local epochs on its own table, then V_u."""
    private, rows = at_place(clients.private, place), samples.rows
    table, optimiser = from_storage(clients.items[place, rows]), optax.adam(hyper.lr_embedding)
    private, table, trained = fit_embedding(model.objective, private, table, samples, optimiser)
    fields = {"private": private, "directions": spanned(config, samples, table)}
    return Change(fields, trained, rows, table)


def take_up_and_train(
    config: FedCA,
    model: Scoring,
    hyper: Hyper,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """A client that was served: Q_u <- rho Q_u + (1 - rho) G_u, local epochs, then V_u."""
    private, table, _, slot = at_place(clients, place)
    rows, optimiser = samples.rows, optax.adam(hyper.lr_embedding)
    waiting = from_storage(download.items[slot])
    table = interpolated(from_storage(table), waiting, hyper.interpolation)
    private, new_rows, trained = fit_embedding(
        model.objective, private, table[rows], samples, optimiser
    )
    fields = {"private": private, "directions": spanned(config, samples, new_rows)}
    table = table.at[rows].set(new_rows, mode="drop")
    return Change(fields, trained, jnp.arange(table.shape[0]), table)


def interpolated(
    own: Float[Array, "*n D"], served: Float[Array, "*n D"], share: Float[Array, ""]
) -> Float[Array, "*n D"]:
    """rho Q_u + (1 - rho) G_u: the client's `share` of its own table, and the rest of the
    server's."""
    return share * own + (1 - share) * served


def spanned(
    config: FedCA, samples: ClientSamples, table: Float[Array, "M D"]
) -> Float[Array, "k D"]:
    """V_u, of the trained rows."""
    share = sampled_share(samples, config.subspace)
    return principal_directions(table, share, min(config.directions, config.dim))


def sampled_share(samples: ClientSamples, subspace: str) -> Float[Array, " M"]:
    """Share of a client's `samples`, or of its `interactions` alone, that falls on each row: an
    item that was sampled several times counts as often."""
    present = jnp.arange(len(samples.row_of)) < samples.count
    if subspace == "interactions":
        present = present & (samples.labels[samples.row_of] > 0)
    return batch_weights(samples.row_of, present, len(samples.rows))


def principal_directions(
    table: Float[Array, "M D"], share: Float[Array, " M"], number: int
) -> Float[Array, "k D"]:
    """The first so many principal directions of rows that occur with these shares, which sum to
    1; each points to where the row that scores highest on it, in absolute value, is positive."""
    centred = table - (share @ table)[None, :]
    _, vectors = eigensystem(centred.T @ (share[:, None] * centred))
    directions = vectors.T[::-1][:number]
    scores = jnp.where(share[None, :] > 0, directions @ centred.T, 0.0)
    return directions * canonical_sign(scores)[:, None]


# --- what the server does -------------------------------------------------------------------------


def serve(
    config: FedCA, layout: Layout, upload: Upload, hyper: Hyper, before: Download,
    uploaders: Int[Array, " A"],
) -> Download:  # fmt: skip
    """The server's step, on nothing but the uploads and who sent them; its tables take the memory
    of those before."""
    tables = from_storage(upload.items)
    _, scores = signatures(layout, tables, len(upload.samples))
    alike = layout.split(saturate(l2_similarity(scores * canonical_sign(scores)[:, None])))
    complementary = complementarity(upload.directions, config.matching)
    weights = composite_weights(sample_shares(upload.samples), alike, complementary, hyper)
    return Download(aggregate_shares(layout, weights, tables, before.items, uploaders))


def composite_weights(
    shares: Float[Array, " A"],
    similarity: Float[Array, "A A"],
    complementarity: Float[Array, "A A"],
    hyper: Hyper,
) -> Float[Array, "A A"]:
    """W_uv >= 0 of client v's table in the table for client u, rows sum to 1: the projection of
    p + a c_u + b s_u onto the simplex. (The program's README exchanges the names of a and b.)"""
    drawn = hyper.complementarity_weight * complementarity + hyper.similarity_weight * similarity
    return normalised(project_to_simplex(shares[None, :] + drawn))


# --- what others ask ------------------------------------------------------------------------------


def scratch(config: FedCA, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once.

    take up: own and served table and their mixture, [I D].
    aggregate: as for any similarity, and the cosines of the clients' directions twice.
    """
    dim, num_items = config.dim, layout.num_items
    _, uploads = config.round_sizes(layout.num_clients)
    numbers = training_scratch(layout, dim, block, tables=3, pairs=config.pairs)
    numbers["take up"] = numbers["train"] + 3 * block * num_items * dim
    numbers |= aggregation_scratch(layout, uploads, dim)
    share = share_size(layout, uploads)
    numbers["aggregate"] += share * uploads * 2 * min(config.directions, dim) ** 2
    return numbers

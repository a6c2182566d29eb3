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
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.local import batch_weights, fit_embedding
from fedem_jax.config.settings import FedCA
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.linalg import canonical_sign, eigensystem
from fedem_jax.core.round import Change, Phase, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models.mf import MF, item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server.aggregation import aggregated, normalised, project_to_simplex, sample_shares
from fedem_jax.server.similarity import l2_similarity, principal_axes, principal_scores, saturate


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

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
    """Row of the server's tables that the client was served with; -1: none."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients."""

    items: Num[Array, "A I D"]
    directions: Float[Array, "A k D"]
    samples: Int[Array, " A"]


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated."""

    items: Num[Array, "A I D"]


NOT_SERVED = -1
"""Slot of a client that waits for no table."""


def fedca(config: FedCA, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedCA on one federation; the arguments are those of `fedem`."""
    backbone = MF(config.dim, config.init_scale)
    logits, objective = scoring(backbone, config.bce)
    stored, num_directions = storage_dtype(config), min(config.directions, config.dim)
    _, num_served = config.round_sizes(layout.number)
    for_served = layout.classes_for(num_served)
    for_others = layout.classes_for(layout.number - num_served)

    def init(key: Key[Array, ""]) -> State:
        key_items, key_private, _ = jax.random.split(key, 3)  # the same start as FedEM's
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        directions = jnp.zeros((num_directions, config.dim))
        clients = Clients(
            private, to_storage(table, stored), directions, slot=jnp.int32(NOT_SERVED)
        )
        clients = jax.tree.map(lambda x: jnp.broadcast_to(x, (layout.padded, *x.shape)), clients)
        return State(clients, Download(jnp.zeros((num_served, num_items, config.dim), stored)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        rule = Rule.of(config, hyper.threshold)
        phases = [
            Phase(partial(train_own, hyper), lambda c: c.slot == NOT_SERVED, for_others),
            Phase(partial(take_up_and_train, hyper), lambda c: served(c.slot), for_served),
        ]
        clients, info, _ = train_clients(
            phases, layout, draws, rule, num_items, state, participants
        )
        chosen = layout.places(draws.aggregated(participants))
        upload = Upload(clients.items[chosen], clients.directions[chosen], samples[chosen])
        download = serve(config, layout, upload, hyper)
        table = jnp.arange(num_served, dtype=jnp.int32)
        slot = jnp.full(layout.padded, NOT_SERVED, jnp.int32).at[chosen].set(table)
        return State(clients._replace(slot=slot), download), info

    def served(slot: Int[Array, "*C"]) -> Bool[Array, "*C"]:
        return slot != NOT_SERVED

    def train_own(hyper: Hyper, session: ClientSamples, clients: Clients, _, id) -> Change:
        """A client that was not served: local epochs on its own table."""
        private, rows = tree_at(clients.private, id), session.rows
        table, optimiser = from_storage(clients.items[id, rows]), optax.adam(hyper.lr_embedding)
        private, table, trained = fit_embedding(objective, private, table, session, optimiser)
        own = {"private": private, "directions": spanned(session, table)}
        return Change(own, trained, rows, table)

    def take_up_and_train(hyper: Hyper, session: ClientSamples, clients, download, id) -> Change:
        """A client that was served: its table moves towards the server's, then local epochs."""
        private, table, _, slot = tree_at(clients, id)
        rows, optimiser = session.rows, optax.adam(hyper.lr_embedding)
        table = interpolated(
            from_storage(table), from_storage(download.items[slot]), hyper.interpolation
        )
        private, new_rows, trained = fit_embedding(
            objective, private, table[rows], session, optimiser
        )
        own = {"private": private, "directions": spanned(session, new_rows)}
        table, every = table.at[rows].set(new_rows, mode="drop"), jnp.arange(num_items)
        return Change(own, trained, every, table)

    def spanned(session: ClientSamples, table: Float[Array, "M D"]) -> Float[Array, "k D"]:
        """V_u, of the trained rows."""
        return principal_directions(table, sampled_share(session, config.subspace), num_directions)

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: interpolated, if just
        served."""
        clients, download = state
        private, rows, _, slot = tree_at(clients, ids)

        def take_up(rows):
            mixed = interpolated(rows, from_storage(download.items[slot]), hyper.interpolation)
            return jnp.where(served(slot)[:, None, None], mixed, rows)

        waiting = over_trials(served(slot).any().astype(jnp.int32))
        rows = lax.cond(waiting > 0, take_up, lambda rows: rows, from_storage(rows))
        return jax.vmap(logits)(private, rows)

    def scratch(block: int) -> dict[str, int]:
        """Taking up: own and served table and their mixture, [I D]. Aggregating: a copy of the
        uploads, their signatures, 6 arrays of clients by clients, and the cosines of their
        directions twice."""
        dim, pairs = config.dim, num_served**2
        numbers = training_scratch(layout, num_items, dim, block, tables=3)
        numbers["take up"] = numbers["train"] + 3 * block * num_items * dim
        numbers["aggregate"] = num_served * num_items * (dim + 2)
        numbers["aggregate"] += pairs * (6 + 2 * num_directions**2)
        return numbers

    hyper = numbers_of(Hyper, config)
    table = stored.itemsize * num_items * config.dim
    up = num_served * (table + 4 * num_directions * config.dim + 4)
    return Algorithm(
        init, round, score, num_items, hyper, Traffic(up=up, down=num_served * table), scratch
    )


def interpolated(
    own: Float[Array, "*n D"], served: Float[Array, "*n D"], share: Float[Array, ""]
) -> Float[Array, "*n D"]:
    """rho Q_u + (1 - rho) G_u: the client's `share` of its own table, and the rest of the
    server's."""
    return share * own + (1 - share) * served


# --- the server's step ----------------------------------------------------------------------------


def serve(config: FedCA, layout: Layout, upload: Upload, hyper: Hyper) -> Download:
    """The server's step, on nothing but the uploads."""
    tables = from_storage(upload.items)
    scores = principal_scores(tables, principal_axes(tables))
    alike = saturate(l2_similarity(scores * canonical_sign(scores)[:, None]))
    complementary = complementarity(upload.directions, config.matching)
    weights = composite_weights(sample_shares(upload.samples), alike, complementary, hyper)
    tables = aggregated(layout.split(weights), tables)
    return Download(to_storage(tables, upload.items.dtype))


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


def complementarity(directions: Float[Array, "A k D"], matching: str) -> Float[Array, "A A"]:
    """c_uv = cos(mean of k angles), in [-1, 1], 1 on the diagonal.

    `greedy`: the angles of the pair of directions, one of each client, that has the largest cosine,
    of the next one among those left, and so on; signs count (released program). `angles`: the
    principal angles between the two subspaces.
    """
    cosines = jnp.einsum("akd,bld->abkl", directions, directions)
    matched = greedily_matched(cosines) if matching == "greedy" else singular_values(cosines)
    agreement = jnp.cos(jnp.arccos(jnp.clip(matched, -1, 1)).mean(axis=-1))
    return jnp.where(jnp.eye(len(directions), dtype=bool), 1.0, agreement)


def greedily_matched(cosines: Float[Array, "*n k k2"]) -> Float[Array, "*n k"]:
    """The largest entry of each matrix, then the largest without its row and column, and so on."""
    size, matched = cosines.shape[-1], []
    for _ in range(size):
        flat = cosines.reshape(*cosines.shape[:-2], -1)
        row, column = jnp.divmod(jnp.argmax(flat, axis=-1), size)
        matched.append(flat.max(axis=-1))
        row, column = (jax.nn.one_hot(place, size, dtype=bool) for place in (row, column))
        cosines = jnp.where(row[..., :, None] | column[..., None, :], -jnp.inf, cosines)
    return jnp.stack(matched, axis=-1)


def singular_values(matrices: Float[Array, "*n k k2"]) -> Float[Array, "*n k"]:
    """Singular values of each matrix, in rising order."""
    squares = jnp.einsum("...kl,...ml->...km", matrices, matrices)
    values, _ = jax.vmap(eigensystem)(squares.reshape(-1, *squares.shape[-2:]))
    return jnp.sqrt(jnp.maximum(values, 0)).reshape(squares.shape[:-1])


# --- principal directions -------------------------------------------------------------------------


def sampled_share(session: ClientSamples, subspace: str) -> Float[Array, " M"]:
    """Share of a client's `samples`, or of its `interactions` alone, that falls on each row: an
    item that was sampled several times counts as often."""
    present = jnp.arange(len(session.row_of)) < session.count
    if subspace == "interactions":
        present = present & (session.labels[session.row_of] > 0)
    return batch_weights(session.row_of, present, len(session.rows))


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

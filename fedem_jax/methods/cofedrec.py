"""CoFedRec (He et al., WWW 2024): co-clustering for federated recommendation; after the released
program.

    clients, in parallel:  batch by batch: (w_u, c_u) <- a gradient step on BCE(w_u . q_i + c_u, y)
                                           Q_u <- a gradient step, with the new (w_u, c_u), on
                                                  BCE + contrast * SupCon(Q_u; clusters of items)
                           upload Q_u
    server:                clusters <- K-means of the rows of the mean table, downloaded by all
                           c, k <- a random participant and a random cluster
                           s_u  = sum of cos(Q_c[i], Q_u[i]) over the items i of cluster k
                           group <- those of largest s_u, down to the elbow of the sorted s
                           Q_u <- mean of the group's tables, downloaded by its members

All others go on from their own tables. There are no clusters, hence no contrast, in the first
round.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.contrast import contrast_scratch, supervised_contrast
from fedem_jax.client.local import fit_in_turn
from fedem_jax.config.settings import CoFedRec
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout
from fedem_jax.core.round import Change, Phase, everybody, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server.averaging import copies


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_network: Float[Array, ""]
    """Gradient step of w_u and c_u."""
    lr_item_factor: Float[Array, ""]
    """Gradient step of Q_u, as a multiple of lr_network times the number of items."""
    contrast: Float[Array, ""]
    """Weight of the contrastive loss."""
    temperature: Float[Array, ""]
    """Its temperature, tau."""
    base_temperature: Float[Array, ""]
    """Its loss is multiplied by tau over this one."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] score functions w_u, c_u; they never leave a client."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table, or its group's mean."""


class Server(NamedTuple):
    """What the server keeps."""

    cluster: Int[Array, " I"]
    """Cluster of each item; -1 before the first round."""


class Upload(NamedTuple):
    """All that the server sees of the clients that took part; it looks at no others."""

    items: Num[Array, "C I D"]
    participants: Int[Array, " P"]
    """Places of the tables that were sent."""


class Download(NamedTuple):
    """What the server hands out: the clusters to all, the table to the group."""

    cluster: Int[Array, " I"]
    items: Float[Array, "I D"]
    group: Bool[Array, " C"]


def cofedrec(
    config: CoFedRec, num_items: int, layout: Layout, samples: Int[Array, " C"]
) -> Algorithm:
    """CoFedRec on one federation; the arguments are those of `fedem`."""
    backbone = Linear()
    logits, objective = scoring(backbone, config.bce)
    num_participants, _ = config.round_sizes(layout.number)
    plain = layout.coarse if config.contrast else layout.classes  # the first round alone, or all
    num_clusters = min(config.num_clusters, num_items)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0, w_0 and c_0."""
        key_items, key_private, _ = jax.random.split(key, 3)  # the same start as PFedRec's
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        clients = copies(Clients(private, to_storage(table, storage_dtype(config))), layout)
        return State(clients, Server(jnp.full(num_items, -1, jnp.int32)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        rule = Rule.of(config, jnp.float32(0))
        contrasts = (state.server.cluster[0] >= 0) & (hyper.contrast > 0)
        phases = [
            Phase(partial(train, hyper), lambda c: everybody(c) & ~contrasts, plain),
            Phase(partial(train_apart, hyper), lambda c: everybody(c) & contrasts, layout.classes),
        ]
        clients, info, _ = train_clients(
            phases, layout, draws, rule, num_items, state, participants
        )
        upload = Upload(clients.items, layout.places(participants))
        download = serve(layout, draws.server(), upload, num_clusters)
        items = jnp.where(
            download.group[:, None, None],
            to_storage(download.items, clients.items.dtype)[None],
            clients.items,
        )
        return State(clients._replace(items=items), Server(download.cluster)), info

    def train(hyper: Hyper, session: ClientSamples, clients: Clients, _, id) -> Change:
        """Without the contrast: the rows that a client did not sample stay as they are."""
        private, rows = tree_at(clients.private, id), session.rows
        private, table, trained = fit_in_turn(
            objective, private, from_storage(clients.items[id, rows]), session, *steps(hyper)
        )
        return Change({"private": private}, trained, rows, table)

    def train_apart(hyper: Hyper, session: ClientSamples, clients: Clients, server, id) -> Change:
        """With it: every step moves all rows."""
        private, table = tree_at(clients, id)

        def contrasted(private, table, labels, weights):
            apart = supervised_contrast(
                table, server.cluster, hyper.temperature, hyper.base_temperature
            )
            return objective(private, table, labels, weights) + hyper.contrast * apart

        session = over_all_items(session, num_items)
        private, table, trained = fit_in_turn(
            contrasted, private, from_storage(table), session, *steps(hyper)
        )
        return Change({"private": private}, trained, session.rows, table)

    def steps(hyper: Hyper) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return hyper.lr_network, hyper.lr_network * num_items * hyper.lr_item_factor

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, rows = tree_at(state.clients, ids)
        return jax.vmap(logits)(private, from_storage(rows))

    def scratch(block: int) -> dict[str, int]:
        """Contrast, beside training: see there. Serving: means and their sums, [I D], distances to
        all centres, and the likeness of each client's items."""
        dim, numbers = config.dim, training_scratch(layout, num_items, config.dim, block)
        numbers["contrast"] = block * contrast_scratch(num_items, dim)
        numbers["serve"] = num_items * (6 * dim + 2 * num_clusters + layout.shard)
        return numbers

    hyper = numbers_of(Hyper, config)
    table = num_participants * storage_dtype(config).itemsize * num_items * config.dim
    # the group is found as the round runs: this is what it costs if all participants are in it
    traffic = Traffic(up=table, down=table + layout.number * 4 * num_items)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)


def over_all_items(session: ClientSamples, num_items: int) -> ClientSamples:
    """The same samples over the whole item table."""
    labels = jnp.zeros(num_items).at[session.rows].max(session.labels, mode="drop")
    rows = jnp.arange(num_items, dtype=jnp.int32)
    return session._replace(rows=rows, labels=labels, row_of=session.rows[session.row_of])


# --- the server's step ----------------------------------------------------------------------------


def serve(layout: Layout, key: Key[Array, ""], upload: Upload, num_clusters: int) -> Download:
    """The server's step, on nothing but the uploads."""
    key_means, key_client, key_cluster = jax.random.split(key, 3)
    nobody = jnp.zeros(layout.padded, bool)
    mean = mean_table(layout, upload.items, nobody.at[upload.participants].set(True))
    cluster = k_means(key_means, mean, num_clusters)

    client = jax.random.choice(key_client, upload.participants, (1,))
    theme = cluster == jax.random.randint(key_cluster, (), 0, num_clusters)
    (reference,) = upload.items[client]
    alike = likeness(upload.items, reference, theme)[upload.participants]
    order = jnp.argsort(-alike, stable=True)
    chosen = jnp.arange(len(order)) <= elbow(alike[order])
    group = nobody.at[upload.participants[order]].set(chosen)
    return Download(cluster, mean_table(layout, upload.items, group), group)


def mean_table(
    layout: Layout, tables: Num[Array, "C I D"], chosen: Bool[Array, " C"]
) -> Float[Array, "I D"]:
    """Mean of the chosen clients' tables."""

    def on_device(tables, _, chosen):
        def add(place, total):
            return total + jnp.where(chosen[place], from_storage(tables[place]), 0.0)

        total = lax.fori_loop(0, len(tables), add, jnp.zeros(tables.shape[1:]))
        return (), lax.psum(total, AXIS)

    _, total = layout.on_each_device(on_device, tables, (), chosen, summed=True)
    return total / chosen.sum()


def likeness(
    tables: Num[Array, "C I D"], reference: Num[Array, "I D"], theme: Bool[Array, " I"]
) -> Float[Array, " C"]:
    """s_u, sum of cos(Q_c[i], Q_u[i]) over the items of the theme, with Q_c the reference."""
    tables, reference = from_storage(tables), from_storage(reference)
    unit = reference / jnp.maximum(jnp.linalg.norm(reference, axis=1, keepdims=True), 1e-8)
    length = jnp.maximum(jnp.linalg.norm(tables, axis=2), 1e-8)
    cosine = jnp.sum(tables * unit[None], axis=2) / length
    return jnp.where(theme[None, :], cosine, 0.0).sum(axis=1)


def elbow(falling: Float[Array, " P"]) -> Int[Array, ""]:
    """Index of the value furthest from the straight line between the first and the last one; the
    first of several."""
    index = jnp.arange(len(falling))
    rise, run = falling - falling[0], max(len(falling) - 1, 1)
    return jnp.argmax(jnp.abs(run * rise - index * rise[-1]))


# --- clusters of items ----------------------------------------------------------------------------

MOST_STEPS = 300
"""Steps of K-means at most (the library that the released program calls, as are the next two)."""
TOLERANCE = 1e-4
"""K-means ends once its centres move by less than this share of the mean variance."""


def k_means(key: Key[Array, ""], rows: Float[Array, "I D"], number: int) -> Int[Array, " I"]:
    """Cluster of each row."""
    rows = rows - rows.mean(axis=0, keepdims=True)
    return settled(rows, spread_out(key, rows, number))


def settled(rows: Float[Array, "I D"], centres: Float[Array, "K D"]) -> Int[Array, " I"]:
    """Lloyd's steps: each centre moves to the mean of the rows next to it; one that is next to none
    stays where it was."""
    tolerance = TOLERANCE * rows.var(axis=0).mean()

    def step(loop):
        count, centres, _ = loop
        cluster = nearest(rows, centres)
        size = jnp.zeros(len(centres)).at[cluster].add(1.0)[:, None]
        total = jnp.zeros_like(centres).at[cluster].add(rows)
        new = jnp.where(size > 0, total / jnp.maximum(size, 1), centres)
        return count + 1, new, jnp.sum((new - centres) ** 2)

    def unsettled(loop):
        count, _, moved = loop
        return (count < MOST_STEPS) & (moved > tolerance)

    start = (jnp.int32(0), centres, jnp.float32(jnp.inf))
    _, centres, _ = lax.while_loop(unsettled, step, start)
    return nearest(rows, centres)


def nearest(rows: Float[Array, "I D"], centres: Float[Array, "K D"]) -> Int[Array, " I"]:
    """The centre next to each row."""
    gap = jnp.sum(centres**2, axis=1)[None, :] - 2 * rows @ centres.T
    return jnp.argmin(gap, axis=1).astype(jnp.int32)


def spread_out(key: Key[Array, ""], rows: Float[Array, "I D"], number: int) -> Float[Array, "K D"]:
    """Greedy k-means++: each new centre is the best of a few rows drawn in proportion to the
    squared distance to the nearest centre so far (Arthur, Vassilvitskii 2007)."""
    attempts = 2 + int(math.log(number))

    def squared(centres):
        return jnp.sum((rows[None] - centres[:, None]) ** 2, axis=2)

    def add(k, carry):
        centres, gap = carry
        drawn = jax.random.categorical(jax.random.fold_in(key, k), jnp.log(gap), shape=(attempts,))
        left = jnp.minimum(gap[None, :], squared(rows[drawn]))
        best = jnp.argmin(left.sum(axis=1))
        return centres.at[k].set(rows[drawn[best]]), left[best]

    first = jax.random.choice(jax.random.fold_in(key, 0), rows)
    centres = jnp.zeros((number, rows.shape[1])).at[0].set(first)
    centres, _ = lax.fori_loop(1, number, add, (centres, squared(first[None])[0]))
    return centres

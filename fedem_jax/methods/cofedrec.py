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

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.contrast import contrast_scratch, supervised_contrast
from fedem_jax.client.local import InTurn, fit_embedding
from fedem_jax.config.settings import CoFedRec
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, copies, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout
from fedem_jax.core.round import (
    Change,
    Phase,
    RoundContext,
    everybody,
    train_clients,
    training_scratch,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.models.linear import Linear
from fedem_jax.models.mf import item_table
from fedem_jax.models.scoring import Scoring, scoring
from fedem_jax.server.clustering import k_means


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0."""
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
    """All that the server sees of the clients whose table arrived; it looks at no others."""

    items: Num[Array, "C I D"]
    participants: Int[Array, " P"]
    """Places of the tables that arrived."""


class Download(NamedTuple):
    """What the server hands out: the clusters to all, the table to the group."""

    cluster: Int[Array, " I"]
    items: Float[Array, "I D"]
    group: Bool[Array, " C"]


def cofedrec(config: CoFedRec, layout: Layout) -> Algorithm:
    """CoFedRec on one federation; the arguments are those of `local_only`."""
    backbone, stored = Linear(), storage_dtype(config)
    model = scoring(backbone, config.bce, config.loss)
    _, num_arrived = config.round_sizes(layout.num_clients)
    plain = layout.coarse if config.contrast else layout.classes  # the first round alone, or all
    num_clusters = min(config.num_clusters, layout.num_items)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0, w_0 and c_0, those of PFedRec."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, layout.num_items, config.dim, hyper.init_scale)
        private = backbone.init(key_private, table)["params"]
        clients = copies(Clients(private, to_storage(table, stored)), layout)
        return State(clients, Server(jnp.full(layout.num_items, -1, jnp.int32)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws)
        contrasts = (state.server.cluster[0] >= 0) & (hyper.contrast > 0)
        phases = [
            Phase(partial(train, model, hyper), lambda c: everybody(c) & ~contrasts, plain),
            Phase(
                partial(train_apart, model, hyper),
                lambda c: everybody(c) & contrasts,
                layout.classes,
            ),
        ]
        clients, info, _ = train_clients(context, phases, state)
        upload = Upload(clients.items, layout.places(context.arrived))
        download = serve(layout, draws.server(), upload, num_clusters)
        table = to_storage(download.items, stored)[None]
        items = jnp.where(download.group[:, None, None], table, clients.items)
        return State(clients._replace(items=items), Server(download.cluster)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        private, rows = at_place(state.clients, places)
        return jax.vmap(model.logits)(private, from_storage(rows))

    tables = num_arrived * table_bytes(config, layout.num_items)
    # the group is found as the round runs: this is what it costs if all are in it that can be
    down = tables + layout.num_clients * 4 * layout.num_items
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(up=tables, down=down),
        scratch=partial(scratch, config, layout),
    )


# --- what a client does ---------------------------------------------------------------------------


def train(
    model: Scoring, hyper: Hyper, samples: ClientSamples, clients: Clients, server: Server, place
) -> Change:
    """Without the contrast: the rows that a client did not sample stay as they are."""
    private, rows = at_place(clients.private, place), samples.rows
    table = from_storage(clients.items[place, rows])
    steps = steps_of(hyper, len(server.cluster))
    private, table, trained = fit_embedding(model.objective, private, table, samples, steps)
    return Change({"private": private}, trained, rows, table)


def train_apart(
    model: Scoring, hyper: Hyper, samples: ClientSamples, clients: Clients, server: Server, place
) -> Change:
    """With the contrast: every step moves all rows."""
    private, table = at_place(clients, place)

    def contrast(table):
        rates = (hyper.temperature, hyper.base_temperature)
        return hyper.contrast * supervised_contrast(table, server.cluster, *rates)

    num_items = len(server.cluster)
    samples, steps = over_all_items(samples, num_items), steps_of(hyper, num_items)
    private, table, trained = fit_embedding(
        model.objective, private, from_storage(table), samples, steps, contrast
    )
    return Change({"private": private}, trained, samples.rows, table)


def steps_of(hyper: Hyper, num_items: int) -> InTurn:
    """Gradient steps of the score function and of the item table."""
    return InTurn(hyper.lr_network, hyper.lr_network * num_items * hyper.lr_item_factor)


def over_all_items(samples: ClientSamples, num_items: int) -> ClientSamples:
    """The same samples over the whole item table."""
    labels = jnp.zeros(num_items).at[samples.rows].max(samples.labels, mode="drop")
    rows = jnp.arange(num_items, dtype=jnp.int32)
    return samples._replace(rows=rows, labels=labels, row_of=samples.rows[samples.row_of])


# --- what the server does -------------------------------------------------------------------------


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


# --- what others ask ------------------------------------------------------------------------------


def scratch(config: CoFedRec, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once.

    contrast, beside training: see there.
    serve: means and their sums, [I D], distances to all centres, and the likeness of each client's
    items.
    """
    dim, num_items = config.dim, layout.num_items
    numbers = training_scratch(layout, dim, block, pairs=config.pairs)
    numbers["contrast"] = block * contrast_scratch(num_items, dim)
    clusters = min(config.num_clusters, num_items)
    numbers["serve"] = num_items * (6 * dim + 2 * clusters + layout.shard)
    return numbers

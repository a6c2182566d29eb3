"""GPFedRec (Zhang, Long, Zhou, Zhang, Yan, Yang, KDD 2024): graph-guided personalisation for
federated recommendation; after the released program.

    clients, in parallel:  Q_u <- G
                           (p_u, theta_u, Q_u) <- local epochs of gradient steps on
                               BCE(MLP([p_u ; q_i]), y_ui) + reg mean (Q_u - R_u)^2
                           upload Q_u
    server:                W_uv = 1 - cosine of Q_u and Q_v
                           N_u  = all v with W_uv > mean of W, or the k largest
                           R_u  <- mean of Q_v over N_u, downloaded by u
                           G    <- mean of R_u, downloaded by all

The mean (Q_u - R_u)^2 is over the whole table. A row outside the samples only feels this pull,
which leaves it R + (1 - kappa)^s (G - R) after s steps,  kappa = 2 reg lr_items / (I D).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.local import place_weights, run_epochs
from fedem_jax.client.privacy import noise
from fedem_jax.config.settings import GPFedRec
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, numbers_of, tree_at
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import AXIS, Layout
from fedem_jax.core.round import Change, Phase, Trained, everybody, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.errors import UserError
from fedem_jax.models.mf import item_table
from fedem_jax.models.ncf import NCF
from fedem_jax.models.scoring import scoring
from fedem_jax.server.averaging import copies

ITEMS_AT_ONCE = 64
"""Items of all tables that the server multiplies at once."""


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    lr_network: Float[Array, ""]
    """Gradient step of theta_u."""
    lr_factor: Float[Array, ""]
    """Gradient steps of p_u, and of Q_u by the number of items, as multiples of lr_network."""
    regularization: Float[Array, ""]
    """Pull of Q_u towards R_u."""
    neighbour_threshold: Float[Array, ""]
    """Entry of the graph above which clients are neighbours, as a multiple of the mean entry."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 8 C I D bytes (4 in bfloat16) and little more."""

    private: Any
    """[C ...] user vectors p_u and networks theta_u; they never leave a client."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table, before its download."""
    personal: Num[Array, "C I D"]
    """R_u, the table that the server made for the client."""


class Upload(NamedTuple):
    """All that the server sees of the clients."""

    items: Num[Array, "C I D"]


class Download(NamedTuple):
    """What the server hands out to all; what it made for one client waits there, as `personal`."""

    items: Num[Array, "I D"]
    """G."""


class Steps(NamedTuple):
    """Step sizes of a client's parts."""

    network: Float[Array, ""]
    user: Float[Array, ""]
    items: Float[Array, ""]
    pull: Float[Array, ""]
    """kappa: share of Q_u - R_u that a step takes off."""


class Fitted(NamedTuple):
    """A client after its local training."""

    private: Any
    table: Float[Array, "M D"]
    """Rows of Q_u."""
    left: Float[Array, ""]
    """Share of G - R_u that is left of all other rows."""
    trained: Trained


def gpfedrec(
    config: GPFedRec, num_items: int, layout: Layout, samples: Int[Array, " C"]
) -> Algorithm:
    """GPFedRec on one federation; the arguments are those of `fedem`.

    Raises:
        UserError: a client is to have more neighbours than there are clients.
    """
    if config.neighbours > layout.number:
        raise UserError(
            f"neighbours: {config.neighbours} are more than the {layout.number} clients; give at "
            "most as many."
        )
    backbone = NCF(config.dim, config.network_widths, config.init_scale)
    logits, objective = scoring(backbone, config.bce)
    stored = storage_dtype(config)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0 = R_0 = G, p_0 and theta_0."""
        key_items, key_private, _ = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        table = to_storage(table, stored)
        clients = Clients(*copies((private, table, table), layout))
        return State(clients, Download(table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        steps = steps_of(hyper, num_items, config.dim)

        def train(session, clients: Clients, download: Download, id) -> Change:
            private, rows = tree_at(clients.private, id), session.rows
            start, target = from_storage(download.items), from_storage(clients.personal[id])
            fitted = fit(objective, private, start[rows], target[rows], session, steps)
            table = target + fitted.left * (start - target)
            table = table.at[rows].set(fitted.table, mode="drop")
            kept = {"private": fitted.private, "items": to_storage(table, stored)}
            return Change(kept, fitted.trained)

        rule = Rule.of(config, jnp.float32(0))
        phases = [Phase(train, everybody, layout.classes)]
        clients, info, _ = train_clients(
            phases, layout, draws, rule, num_items, state, draws.participants()
        )
        upload, key = Upload(clients.items), draws.server()
        personal, download = serve(config, layout, key, upload, clients.personal, hyper)
        return State(clients._replace(personal=personal), download), info

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by each client's own model before its download."""
        private, rows = tree_at((state.clients.private, state.clients.items), ids)
        return jax.vmap(logits)(private, from_storage(rows))

    def scratch(block: int) -> dict[str, int]:
        """Training: rows of Q_u and R_u, gradient and update, in place of the moments of Adam; R_u
        and Q_u, [I D]; the network on a batch, forth and back. Evaluation: the network on all
        items. Aggregation: 3 arrays of clients by clients; a slice of all tables as stored,
        gathered and multiplied."""
        dim, layers = config.dim, 2 * config.dim + sum(config.network_widths)
        numbers = training_scratch(layout, num_items, dim, block)
        rows = max(size.rows for size in layout.classes)
        numbers["train"] += block * (dim * (2 * num_items - rows) + 2 * config.batch_size * layers)
        numbers["evaluate"] += block * num_items * layers
        everyone, width = layout.padded, min(ITEMS_AT_ONCE, num_items) * dim
        numbers["aggregate"] = 3 * layout.shard * (everyone + width) + everyone * width
        return numbers

    hyper = numbers_of(Hyper, config)
    table = layout.number * stored.itemsize * num_items * config.dim
    traffic = Traffic(up=table, down=2 * table)
    return Algorithm(init, round, score, num_items, hyper, traffic, scratch)


def steps_of(hyper: Hyper, num_items: int, dim: int) -> Steps:
    """Step sizes of the released program, which takes one lr_network off two of them."""
    lr, factor = hyper.lr_network, hyper.lr_factor
    lr_items = lr * num_items * factor - lr
    pull = 2 * hyper.regularization * lr_items / (num_items * dim)
    return Steps(network=lr, user=lr * factor - lr, items=lr_items, pull=pull)


def fit(
    objective,
    private,
    table: Float[Array, "M D"],
    target: Float[Array, "M D"],
    session: ClientSamples,
    steps: Steps,
) -> Fitted:
    """Local epochs of gradient steps on everything at once; the loss reported is that of the
    samples, without the pull."""
    lr = {"user": steps.user, "network": steps.network}

    def step(carry, row, present):
        private, table, left = carry
        weights = place_weights(row, present, len(session.rows))

        def batch_loss(private, table):
            return objective(private, table[row], session.labels[row], weights)

        loss, (slopes, slope) = jax.value_and_grad(batch_loss, argnums=(0, 1))(private, table)
        private = {
            name: jax.tree.map(lambda x, slope, lr=lr[name]: x - lr * slope, part, slopes[name])
            for name, part in private.items()
        }
        table = table - steps.pull * (table - target) - steps.items * slope
        return (private, table, left * (1 - steps.pull)), loss

    start = (private, table, jnp.float32(1))
    (private, table, left), trained = run_epochs(step, start, session)
    return Fitted(private, table, left, trained)


def serve(
    config: GPFedRec, layout: Layout, key: Key[Array, ""], upload: Upload,
    personal: Num[Array, "C I D"], hyper: Hyper,
) -> tuple[Num[Array, "C I D"], Download]:  # fmt: skip
    """The server's step, on nothing but the uploads; what it makes replaces `personal`, the tables
    of the last round."""
    client_at = jnp.asarray(layout.client)
    _, num_items, dim = upload.items.shape
    width = min(ITEMS_AT_ONCE, num_items)
    slices = -(-num_items // width)

    def uploaded(items, client_at, key, b):
        """First item of slice `b`, and that slice of the tables of this device's clients. The last
        slice begins where it is full, with items that the one before it had."""
        first = jnp.minimum(b * width, num_items - width)
        part = from_storage(lax.dynamic_slice_in_dim(items, first, width, axis=1))
        if config.ldp_scale:
            drawn = jax.vmap(lambda client: noise(key, client, first + jnp.arange(width), dim))
            part = part + hyper.ldp_scale * drawn(client_at)
        return first, part

    def products(items, key, client_at):
        """Products of the tables of this device's clients with all tables."""

        def add(b, total):
            first, part = uploaded(items, client_at, key, b)
            new = first + jnp.arange(width) >= b * width
            mine, everyone = jnp.where(new[None, :, None], part, 0), gathered(part)
            return total + jnp.einsum("uid,vid->uv", mine, everyone, precision="highest")

        return lax.fori_loop(0, slices, add, jnp.zeros((layout.shard, layout.padded)))

    def averages(tables, key, client_at, graph):
        """R_u of this device's clients, and G."""
        items, personal = tables
        present = (client_at < layout.number)[:, None, None]

        def put(b, averages):
            personal, common = averages
            first, part = uploaded(items, client_at, key, b)
            for _ in range(config.layers):
                part = jnp.einsum("uv,vid->uid", graph, gathered(part), precision="highest")
            old = lax.dynamic_slice_in_dim(personal, first, width, axis=1)
            mean = lax.psum(jnp.where(present, part, 0).sum(axis=0), AXIS) / layout.number
            part = jnp.where(present, to_storage(part, old.dtype), old)
            personal = lax.dynamic_update_slice_in_dim(personal, part, first, axis=1)
            common = lax.dynamic_update_slice_in_dim(common, mean, first, axis=0)
            return personal, common

        return lax.fori_loop(0, slices, put, (personal, jnp.zeros(items.shape[1:])))

    gram = layout.on_each_device(products, upload.items, key, client_at)
    graph = neighbour_weights(config, gram, client_at < layout.number, hyper.neighbour_threshold)
    personal, common = layout.on_each_device(
        averages, (upload.items, personal), key, client_at, graph, summed=True
    )
    return personal, Download(to_storage(common, personal.dtype))


def gathered(part: Float[Array, "shard I D"]) -> Float[Array, "C I D"]:
    """The parts of all devices."""
    return lax.all_gather(part, AXIS, tiled=True)


def neighbour_weights(
    config: GPFedRec, gram: Float[Array, "C C"], present: Bool[Array, " C"], threshold
) -> Float[Array, "C C"]:
    """Weight of client v's table in that of client u: uniform over the neighbours of u.

    Neighbours have large entries W_uv. The released program takes these from a distance, 1 minus
    the cosine: neighbours are the most dissimilar clients, and nobody is its own. The paper means
    the cosine.

    Args:
        config: graph, and number of neighbours; 0: all v with W_uv above the threshold, or else u
            alone.
        gram: products of the clients' tables.
        present: which of them exist; the others are nobody's neighbours.
        threshold: as a multiple of the mean entry of W, its diagonal included.
    """
    same, norm = jnp.eye(len(gram), dtype=bool), jnp.sqrt(jnp.diagonal(gram))
    cosine = jnp.where(same, 1.0, jnp.clip(gram / norm[:, None] / norm[None, :], -1, 1))
    edges = 1 - cosine if config.graph == "distance" else cosine
    if config.neighbours:
        candidates = jnp.where(present[None, :], edges, -jnp.inf)
        _, nearest = lax.top_k(candidates, config.neighbours)
        row = jnp.arange(len(gram))[:, None]
        return jnp.zeros(gram.shape).at[row, nearest].set(1 / config.neighbours)
    both, number = present[:, None] & present[None, :], present.sum()
    mean = (jnp.where(both, edges, 0).sum(axis=1) / number).sum() / number
    chosen = both & (edges > threshold * mean)
    chosen = chosen | (same & ~chosen.any(axis=1, keepdims=True))
    return chosen / chosen.sum(axis=1, keepdims=True)

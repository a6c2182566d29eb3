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

The mean (Q_u - R_u)^2 is over the whole table. A row outside the samples only feels this pull.
After s steps it is R + (1 - kappa)^s (G - R), with kappa = 2 reg lr_items / (I D).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.local import Objective, loss_of_rows, run_epochs
from fedem_jax.client.privacy import noise
from fedem_jax.config.settings import GPFedRec
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, at_place, copies, hyper_of
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Phase,
    RoundContext,
    Trained,
    train_clients,
    training_scratch,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.errors import UserError
from fedem_jax.models.ncf import NCF
from fedem_jax.models.scoring import Scoring, initial, scoring
from fedem_jax.server.graph import ITEMS_AT_ONCE, averages, neighbour_weights, products


class Hyper(NamedTuple):
    """Numbers that a sweep may vary."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
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


def gpfedrec(config: GPFedRec, layout: Layout) -> Algorithm:
    """GPFedRec on one federation; the arguments are those of `local_only`.

    Raises:
        UserError: a client is to have more neighbours than there are clients.
    """
    if config.neighbours > layout.num_clients:
        raise UserError(
            f"neighbours: {config.neighbours} are more than the {layout.num_clients} clients; give "
            "at most as many."
        )
    backbone, stored = NCF(config.dim, config.network_widths), storage_dtype(config)
    model = scoring(backbone, config.bce, config.loss)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0 = R_0 = G, p_0 and theta_0."""
        private, table = initial(backbone, key, layout.num_items, config.dim, hyper.init_scale)
        table = to_storage(table, stored)
        clients = Clients(*copies((private, table, table), layout))
        return State(clients, Download(table))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws)
        train = partial(train_near_neighbours, model, steps_of(hyper, layout.num_items, config.dim))
        phases = [Phase(train)]
        clients, info, _ = train_clients(context, phases, state)
        upload = Upload(clients.items)
        personal, download = serve(config, context, upload, clients.personal, hyper)
        return State(clients._replace(personal=personal), download), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, by each client's own model before its download."""
        private, rows = at_place((state.clients.private, state.clients.items), places)
        return jax.vmap(model.logits)(private, from_storage(rows))

    tables = layout.num_clients * table_bytes(config, layout.num_items)
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        traffic=Traffic(up=tables, down=2 * tables),
        scratch=partial(scratch, config, layout),
    )


# --- what a client does ---------------------------------------------------------------------------


def train_near_neighbours(
    model: Scoring,
    steps: Steps,
    samples: ClientSamples,
    clients: Clients,
    download: Download,
    place,
) -> Change:
    """(p_u, theta_u, Q_u) <- local epochs from (p_u, theta_u, G), pulled towards R_u."""
    private, rows = at_place(clients.private, place), samples.rows
    start, target = from_storage(download.items), from_storage(clients.personal[place])
    fitted = fit(model.objective, private, start[rows], target[rows], samples, steps)
    table = target + fitted.left * (start - target)
    table = table.at[rows].set(fitted.table, mode="drop")
    kept = {"private": fitted.private, "items": to_storage(table, download.items.dtype)}
    return Change(kept, fitted.trained)


def steps_of(hyper: Hyper, num_items: int, dim: int) -> Steps:
    """Step sizes of the released program, which takes one lr_network off two of them."""
    lr, factor = hyper.lr_network, hyper.lr_factor
    lr_items = lr * num_items * factor - lr
    pull = 2 * hyper.regularization * lr_items / (num_items * dim)
    return Steps(network=lr, user=lr * factor - lr, items=lr_items, pull=pull)


def fit(
    objective: Objective,
    private: Any,
    table: Float[Array, "M D"],
    target: Float[Array, "M D"],
    samples: ClientSamples,
    steps: Steps,
) -> Fitted:
    """Local epochs of gradient steps on everything at once.

    The loss that is reported is that of the samples, without the pull.

    Args:
        objective: loss of rows.
        private: p_u and theta_u.
        table, target: rows of Q_u and of R_u.
        samples: of the client.
        steps: step sizes.
    """
    lr = {"user": steps.user, "network": steps.network}

    def step(carry, row, present):
        private, table, left = carry

        def batch_loss(private, table):
            return loss_of_rows(objective, private, table, samples, row, present)

        loss, (slopes, slope) = jax.value_and_grad(batch_loss, argnums=(0, 1))(private, table)
        private = {
            name: jax.tree.map(lambda x, slope, lr=lr[name]: x - lr * slope, part, slopes[name])
            for name, part in private.items()
        }
        table = table - steps.pull * (table - target) - steps.items * slope
        return (private, table, left * (1 - steps.pull)), loss

    start = (private, table, jnp.float32(1))
    (private, table, left), trained = run_epochs(step, start, samples)
    return Fitted(private, table, left, trained)


def uploaded(
    config: GPFedRec, hyper: Hyper, part: Float[Array, "shard W D"], key: Key[Array, ""],
    client_at: Int[Array, " shard"], first: Int[Array, ""],
) -> Float[Array, "shard W D"]:  # fmt: skip
    """Some items of the tables, from item `first` on, with noise if there is any."""
    if not config.ldp_scale:
        return part
    items = first + jnp.arange(part.shape[1])
    drawn = jax.vmap(lambda client: noise(key, client, items, config.dim))
    return part + hyper.ldp_scale * drawn(client_at)


# --- what the server does -------------------------------------------------------------------------


def serve(
    config: GPFedRec,
    context: RoundContext,
    upload: Upload,
    personal: Num[Array, "C I D"],
    hyper: Hyper,
) -> tuple[Num[Array, "C I D"], Download]:
    """R_u for every client and G for all, from nothing but the uploads.

    Args:
        config: graph and layers.
        context: of the round.
        upload: all tables.
        personal: R_u of the last round, which the new ones replace.
        hyper: threshold of the graph, and scale of the noise.
    """
    layout, key = context.layout, context.draws.server()
    sent = partial(uploaded, config, hyper)
    gram = products(layout, upload.items, key, sent)
    present = jnp.asarray(layout.client) < layout.num_clients
    graph = neighbour_weights(config, gram, present, hyper.neighbour_threshold)
    personal, common = averages(layout, graph, config.layers, upload.items, personal, key, sent)
    return personal, Download(to_storage(common, personal.dtype))


# --- what others ask ------------------------------------------------------------------------------


def scratch(config: GPFedRec, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once.

    train: rows of Q_u and R_u, gradient and update, in place of the moments of Adam; R_u and Q_u,
    [I D]; the network on a batch, forth and back.
    evaluate: the network on all items.
    aggregate: 3 arrays of clients by clients; a slice of all tables as stored, gathered and
    multiplied.
    """
    dim, num_items = config.dim, layout.num_items
    layers = 2 * dim + sum(config.network_widths)
    numbers = training_scratch(layout, dim, block, pairs=config.pairs)
    rows = max(size.rows for size in layout.classes)
    numbers["train"] += block * (dim * (2 * num_items - rows) + 2 * config.batch_size * layers)
    numbers["evaluate"] += block * num_items * layers
    everyone, width = layout.padded, min(ITEMS_AT_ONCE, num_items) * dim
    numbers["aggregate"] = 3 * layout.shard * (everyone + width) + everyone * width
    return numbers

"""FedEM (Chen, Zhang, Zhang, Luo, Li, AAAI 2026): personalised model merging against the
aggregation bottleneck.

    clients that a table waits for:  Q_u <- Q_u + rho_u (G_u - Q_u),  G_u of the round before,
                                     rho_u = sigmoid(MLP([Q_u ; G_u - Q_u]; theta_u))
                                     batch by batch, on rows merged anew:
                                       theta_u <- a step of Adam;  (p_u, Q_u) <- a step of Adam
    all other clients:               (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
    A of the participants, drawn:    upload Q_u and n_u, the number of samples
    server:                          x_u  = (Q_u - its mean row) v_1,  v_1 its first principal axis
                                     s_uv = 1 / (1 + |x_u - x_v|), or 1 above 0.9
                                     w_u  = projection of a + alpha s_u onto the simplex,
                                            a_v = n_v / sum n
                                     G_u  = sum_v w_uv Q_v

With the NCF backbone a score is f_u(p_u, q_i) instead. The network f_u is trained together with p_u
and Q_u, and is as private as p_u: it is never uploaded. (The released program has MF alone.)
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.merging import ElasticClient, fit_adapter, fit_elastic, merged, taken_up
from fedem_jax.client.privacy import noisy_tables
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import (
    Algorithm,
    Elastic,
    Info,
    State,
    Traffic,
    at_place,
    copies,
    hyper_of,
)
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Phase, RoundContext, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.models import ncf
from fedem_jax.models.scoring import initial
from fedem_jax.server.aggregation import aggregate, aggregation_weights, sample_shares
from fedem_jax.server.serving import NOT_SERVED, not_served, served, slots, waits
from fedem_jax.server.similarity import SIMILARITIES, principal_axes, principal_scores, saturate


class Hyper(NamedTuple):
    """Numbers that a sweep may vary: each may be traced, hence stacked over trials."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    lr_adapter: Float[Array, ""]
    """Adam step of theta_u."""
    alpha: Float[Array, ""]
    """Weight of the similarity against the sample shares, alpha of the paper."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    rho: Float[Array, ""]
    """How much of the aggregated table a client takes up, where that is a constant; else NaN."""
    lr_network: Float[Array, ""]
    """Adam step of f_u, the network of NCF."""
    weight_decay: Float[Array, ""]
    """L2 penalty of f_u."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of Q_u - Q_0 in an upload, where the configuration has a bound."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] the backbone's own parameters (the user vectors p_u and, with NCF, the networks f_u);
    they never leave a client."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table, before merging."""
    adapter: Any
    """[C ...] theta_u, the adapters; they never leave a client."""
    slot: Int[Array, " C"]
    """Row of the server's tables that waits for the client in the next round; -1: none."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients."""

    items: Num[Array, "A I D"]
    samples: Int[Array, " A"]


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated, or one for all."""

    items: Num[Array, "R I D"]
    start: Num[Array, "I D"] | None = None
    """Q_0, that everybody started from; kept if uploads are bounded around it."""


def fedem(config: FedEM, layout: Layout) -> Algorithm:
    """FedEM on one federation.

    Args:
        config: sizes and switches; its numbers reach `init`, `round` and `score` as `Hyper`.
        layout: how the clients are laid out over devices, size classes and blocks.
    """
    model = ElasticClient.of(config)
    _, num_uploaders = config.round_sizes(layout.num_clients)
    num_tables = 1 if config.aggregation == "avg" else num_uploaders
    merging = layout.classes_for(num_uploaders) if config.downloads else ()  # none: not compiled
    own_rows = layout.classes_for(layout.num_clients - num_uploaders)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0, p_0 and theta_0; they drift apart by training."""
        sizes = (layout.num_items, config.dim)
        private, table = initial(model.backbone, key, *sizes, hyper.init_scale)
        _, _, key_adapter = jax.random.split(key, 3)
        theta = model.adapter.init(key_adapter, table, table)["params"]
        table = to_storage(table, storage_dtype(config))
        clients = Clients(private, table, theta, slot=jnp.int32(NOT_SERVED))
        nothing = jnp.zeros((num_tables, *table.shape), table.dtype)
        return State(copies(clients, layout), Download(nothing, table if config.ldp_clip else None))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        phases = [
            Phase(partial(train_own, model, hyper), not_served, own_rows),
            Phase(partial(merge_and_train, model, hyper), served, merging),
        ]
        clients, info, _ = train_clients(context, phases, state)
        uploaders, start = draws.uploaders(context.participants), state.server.start
        upload = sent_by(config, context, hyper, uploaders, clients, start)
        tables = aggregated_tables(config, context, hyper, upload)
        if config.downloads:
            clients = clients._replace(slot=slots(layout, uploaders, num_tables))
        return State(clients, Download(tables, start)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: merged, if a table waits."""
        clients, download = state
        private, local, theta, slot = at_place(clients, places)

        def merge(local):
            aggregated = from_storage(download.items[slot])
            rho = jax.vmap(partial(model.rho, hyper))(theta, local, aggregated)
            return merged(local, aggregated, rho)

        local = taken_up(waits(slot), from_storage(local), merge)
        return jax.vmap(model.logits)(private, local)

    tables = num_uploaders * table_bytes(config, layout.num_items)
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        classes={"own rows": own_rows, "merging": merging},
        traffic=Traffic(up=tables + 4 * num_uploaders, down=tables * config.downloads),
        scratch=partial(scratch, config, layout),
        elastic=elastic(model),
    )


# --- what a client does ---------------------------------------------------------------------------


def train_own(
    model: ElasticClient, hyper: Hyper, samples: ClientSamples, clients: Clients, server: Any, place
) -> Change:
    """A client that no table waits for: (p_u, Q_u) <- local epochs."""
    samples, _ = model.split(samples)
    private, rows = at_place(clients.private, place), samples.rows
    table = from_storage(clients.items[place, rows])
    private, table, trained = model.fit(model.objective, private, table, samples, model.adam(hyper))
    return Change({"private": private}, trained, rows, table)


def merge_and_train(
    model: ElasticClient, hyper: Hyper, samples: ClientSamples, clients: Clients, server, place
) -> Change:
    """A client that a table waits for: Q_u <- Q_u + rho_u (G_u - Q_u), then local epochs."""
    config, rho_of = model.config, partial(model.rho, hyper)
    private, local, theta, slot = at_place(clients, place)
    local, aggregated = from_storage(local), from_storage(server.items[slot])
    adapt = optax.flatten(optax.adam(hyper.lr_adapter))  # one update for theta's small arrays
    embed = model.adam(hyper)
    rows, (to_fit, to_adapt) = samples.rows, model.split(samples)

    if config.merging == "once":
        theta = fit_adapter(
            model.objective, rho_of, theta, private, local[rows], aggregated[rows], to_adapt, adapt
        )
    table = merged(local, aggregated, rho_of(theta, local, aggregated))
    if config.merging == "per-batch":
        theta, private, new_rows, trained = fit_elastic(
            model.objective, rho_of, theta, private, table[rows], aggregated[rows], to_fit,
            adapt, embed,
        )  # fmt: skip
    else:
        private, new_rows, trained = model.fit(model.objective, private, table[rows], to_fit, embed)
    table = table.at[rows].set(new_rows, mode="drop")
    fields = {"private": private, "adapter": theta}
    return Change(fields, trained, jnp.arange(table.shape[0]), table)


def sent_by(
    config: FedEM,
    context: RoundContext,
    hyper: Hyper,
    uploaders: Int[Array, " A"],
    clients: Clients,
    start: Num[Array, "I D"] | None,
) -> Upload:
    """What the drawn clients upload: Q_u, bounded around Q_0 and with noise if so asked."""
    tables = clients.items[context.layout.places(uploaders)]
    tables = noisy_tables(config, context.draws, uploaders, tables, start, hyper)
    return Upload(tables, context.samples_of(uploaders))


# --- what the server does -------------------------------------------------------------------------


def aggregated_tables(
    config: FedEM, context: RoundContext, hyper: Hyper, upload: Upload
) -> Num[Array, "R I D"]:
    """G_u = sum_v w_uv Q_v, from nothing but the uploads."""
    tables, shares, similarity = from_storage(upload.items), sample_shares(upload.samples), None
    if config.aggregation != "avg":
        axes = principal_axes(tables)
        scores = principal_scores(tables, axes)
        # the sign of an axis is open; a replayed run takes the recorded one
        scores = scores * context.draws.signs(axes, scores)[:, None]
        similarity = saturate(SIMILARITIES[config.similarity](scores))
    weights = aggregation_weights(config.aggregation, shares, similarity, hyper.alpha)
    tables = aggregate(context.layout.split(weights), tables)
    return to_storage(tables, upload.items.dtype)


# --- what others ask ------------------------------------------------------------------------------


def elastic(model: ElasticClient) -> Elastic:
    """Elastic merging, for the counts of rho and the bottleneck analysis."""

    def aggregated(state: State, places: Int[Array, " B"]) -> Float[Array, "B I D"]:
        slot = state.clients.slot[places]
        return from_storage(state.server.items[jnp.maximum(slot, 0)])

    def rho(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        _, local, theta, slot = at_place(state.clients, places)
        rho_of = jax.vmap(partial(model.rho, hyper))
        value = rho_of(theta, from_storage(local), aggregated(state, places))
        return jnp.where(waits(slot)[:, None], value, 0.0)

    def unserved(state: State) -> State:
        slot = jnp.full_like(state.clients.slot, NOT_SERVED)
        return state._replace(clients=state.clients._replace(slot=slot))

    return Elastic(
        learned=model.config.learns_rho,
        waits=lambda state: served(state.clients),
        rho=rho,
        aggregated=aggregated,
        unserved=unserved,
    )


def scratch(config: FedEM, layout: Layout, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once in each phase.

    merge: own and aggregated table and their merger, [I D]; rows of both tables, both moments and
    the gradient, [M D]; the adapter's hidden layers, [I].
    evaluate: with NCF also the network's input and widest layer, [I].
    aggregate: a copy of the uploads, their signatures, and 6 arrays of clients by clients.
    upload, with noise or a bound: the tables before and after; one client's, its noise and bits.
    """
    dim, num_items = config.dim, layout.num_items
    _, uploads = config.round_sizes(layout.num_clients)
    numbers = training_scratch(layout, dim, block, tables=3 if config.downloads else 1)
    if config.backbone == "ncf":
        numbers["evaluate"] += block * num_items * ncf.inside(dim, config.network_widths)
    numbers["aggregate"] = uploads * (num_items * (dim + 2) + 6 * uploads)
    if config.ldp_scale or config.ldp_clip:
        numbers["upload"] = (2 * uploads + 4) * num_items * dim
    if config.downloads:
        hidden, rows = sum(config.adapter_widths) + 3, max(c.rows for c in layout.classes)
        merging = num_items * (3 * dim + hidden) - rows * dim
        numbers["merge"] = numbers["train"] + block * merging
    return numbers

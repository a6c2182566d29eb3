"""FedEM (Chen, Zhang, Zhang, Luo, Li, AAAI 2026): personalised model merging against the
aggregation bottleneck.

    clients, in parallel:  Q_u <- Q_u + rho_u (G_u - Q_u),  rho_u = sigmoid(MLP([Q_u ; G_u - Q_u]))
                           (theta_u, p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           upload Q_u
    server, over A of them:  s_uv = similarity of the tables' first principal scores
                             w_u  = projection of p + alpha s_u onto the simplex,  p_v = n_v / sum n
                             G_u  = sum_v w_uv Q_v, downloaded by u

With the NCF backbone a score is f_u(p_u, q_i) instead. The network f_u is trained together with p_u
and Q_u, and is as private as p_u: it is never uploaded. (The released program has MF alone.)
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client.local import fit_embedding, fit_network
from fedem_jax.client.merging import fit_adapter, fit_elastic, merged
from fedem_jax.client.privacy import noisy_tables
from fedem_jax.config.settings import FedEM
from fedem_jax.core.algorithm import Algorithm, Elastic, Info, State, Traffic, tree_at
from fedem_jax.core.blocks import over_trials
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Phase, train_clients, training_scratch
from fedem_jax.core.samples import ClientSamples, Rule, hold_out
from fedem_jax.core.table_storage import from_storage, storage_dtype, to_storage
from fedem_jax.models import ncf
from fedem_jax.models.adapter import Adapter, Single
from fedem_jax.models.mf import MF, item_table
from fedem_jax.models.scoring import scoring
from fedem_jax.server.aggregation import aggregated, aggregation_weights, sample_shares
from fedem_jax.server.similarity import SIMILARITIES, principal_axes, principal_scores, saturate


class Hyper(NamedTuple):
    """Numbers that a sweep may vary: each may be traced, hence stacked over trials."""

    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u."""
    lr_adapter: Float[Array, ""]
    """Adam step of theta_u."""
    alpha: Float[Array, ""]
    """Weight of the similarity against the sample shares, alpha of the paper."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    rho: Float[Array, ""]
    """Share of the aggregated table where it is a constant."""
    lr_network: Float[Array, ""]
    """Adam step of f_u, the network of NCF."""
    weight_decay: Float[Array, ""]
    """L2 penalty of f_u."""
    ldp_scale: Float[Array, ""]
    """Scale of the Laplace noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most L1 norm of Q_u - Q_0 in an upload, where the configuration has a bound."""

    @classmethod
    def of(cls, config: FedEM) -> Hyper:
        """The numbers of a configuration."""
        constant = {"replace": 1.0, "none": 0.0, "per-batch": jnp.nan, "once": jnp.nan}
        rho = constant[config.merging] if config.merging in constant else float(config.merging)
        numbers = (config.lr_embedding, config.lr_adapter, config.alpha, config.threshold, rho)
        network = (config.lr_network, config.weight_decay)
        privacy = (config.ldp_scale, config.ldp_clip)
        return cls(*(jnp.float32(number) for number in numbers + network + privacy))


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
    """Row of the server's tables that the client was served with; -1: none."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients."""

    items: Num[Array, "A I D"]
    samples: Int[Array, " A"]


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated, or one for all."""

    items: Num[Array, "R I D"]
    start: Num[Array, "I D"] | None = None
    """Q_0, that everybody started from, if uploads are bounded around it."""


NOT_SERVED = -1
"""Slot of a client that waits for no table."""


def fedem(config: FedEM, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedEM on one federation.

    Args:
        config: sizes and switches; its numbers reach `round` and `score` as `Hyper`.
        num_items: I.
        layout: how the clients are laid out over devices, size classes and blocks.
        samples: samples that each client trains on in a round, positives and negatives.
    """
    if config.backbone == "fcf":
        backbone, fit = MF(config.dim, config.init_scale), fit_embedding
    else:
        backbone, fit = ncf.NCF(config.dim, config.network_widths, config.init_scale), fit_network
    adapter = Adapter(config.adapter_widths) if config.adapter == "row" else Single()
    logits, objective = scoring(backbone, config.bce)
    _, num_served = config.round_sizes(layout.number)
    for_served = layout.classes_for(num_served)
    for_others = layout.classes_for(layout.number - num_served)
    num_tables = 1 if config.aggregation == "avg" else num_served
    stored, learned = storage_dtype(config), config.merging in ("per-batch", "once")
    downloads = config.merging != "none"

    def weigh(theta, local, aggregated, rho) -> Float[Array, "*M"]:
        """rho: the share of the aggregated row, item by item."""
        if learned:
            return jnp.asarray(adapter.apply({"params": theta}, local, aggregated))
        return jnp.full(local.shape[:-1], rho)

    def optimiser(hyper: Hyper) -> optax.GradientTransformation:
        """Adam of the pair of private parameters and Q_u."""
        if config.backbone == "fcf":
            return optax.adam(hyper.lr_embedding)
        return ncf.adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0, p_0 and theta_0; they drift apart by training."""
        key_items, key_private, key_adapter = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale)
        private = backbone.init(key_private, table)["params"]
        theta = adapter.init(key_adapter, table, table)["params"]
        table = to_storage(table, stored)
        clients = Clients(private, table, theta, slot=jnp.int32(NOT_SERVED))
        clients = jax.tree.map(lambda x: jnp.broadcast_to(x, (layout.padded, *x.shape)), clients)
        nothing = jnp.zeros((num_tables, num_items, config.dim), stored)
        return State(clients, Download(nothing, table if config.ldp_clip else None))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        clients, info = train(draws, state, participants, hyper)
        aggregated = draws.aggregated(participants)
        chosen, start = layout.places(aggregated), state.server.start
        tables = noisy_tables(config, draws, aggregated, clients.items[chosen], start, hyper)
        upload = Upload(items=tables, samples=jnp.asarray(samples)[chosen])
        download = serve(config, layout, draws, upload, hyper)._replace(start=start)
        table = jnp.arange(num_served, dtype=jnp.int32) % num_tables
        slot = jnp.full(layout.padded, NOT_SERVED, jnp.int32).at[chosen].set(table)
        return State(clients._replace(slot=slot), download), info

    def train(draws: Draws, state: State, participants, hyper: Hyper) -> tuple[Clients, Info]:
        """Clients in parallel: those that were served merge first, then everybody trains."""
        rule = Rule.of(config, hyper.threshold)
        phases = [
            Phase(partial(train_own, hyper), lambda c: ~merges(c.slot), for_others),
            Phase(partial(merge_and_train, hyper), lambda c: merges(c.slot), for_served),
        ]
        if not downloads:
            phases = phases[:1]
        clients, info, _ = train_clients(
            phases, layout, draws, rule, num_items, state, participants
        )
        return clients, info

    def merges(slot: Int[Array, "*C"]) -> Bool[Array, "*C"]:
        """Who was served; nobody merges where the method never downloads."""
        return (slot != NOT_SERVED) & downloads

    def apart(session: ClientSamples) -> tuple[ClientSamples, ClientSamples]:
        """The samples that embeddings are fitted on, and those that the adapter is."""
        if config.adapter_holdout:
            return hold_out(session, config.adapter_holdout, 1 + config.num_negative)
        return session, session

    def train_own(hyper: Hyper, session, clients: Clients, _, id) -> Change:
        """A client that was not served: local epochs on its own table."""
        session, _ = apart(session)
        private, rows = tree_at(clients.private, id), session.rows
        table = from_storage(clients.items[id, rows])
        private, table, trained = fit(objective, private, table, session, optimiser(hyper))
        return Change({"private": private}, trained, rows, table)

    def merge_and_train(hyper: Hyper, session, clients: Clients, download, id) -> Change:
        """A client that was served: elastic merging, then local epochs."""
        private, table, theta, slot = tree_at(clients, id)
        table, target = from_storage(table), from_storage(download.items[slot])
        rows, rho = session.rows, partial(weigh, rho=hyper.rho)
        session, unseen = apart(session)
        adapt, embed = optax.flatten(optax.adam(hyper.lr_adapter)), optimiser(hyper)
        if config.merging == "once":
            theta = fit_adapter(
                objective, rho, theta, private, table[rows], target[rows], unseen, adapt
            )
        table = merged(table, target, rho(theta, table, target))
        if config.merging == "per-batch":
            theta, private, new_rows, trained = fit_elastic(
                objective, rho, theta, private, table[rows], target[rows], session, adapt, embed
            )
        else:
            private, new_rows, trained = fit(objective, private, table[rows], session, embed)
        table, every = table.at[rows].set(new_rows, mode="drop"), jnp.arange(num_items)
        return Change({"private": private, "adapter": theta}, trained, every, table)

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: merged, if just served."""
        clients, download = state
        private, rows, theta, slot = tree_at(clients, ids)

        def merge(rows):
            target = from_storage(download.items[slot])
            rho = jax.vmap(partial(weigh, rho=hyper.rho))(theta, rows, target)
            return jnp.where(merges(slot)[:, None, None], merged(rows, target, rho), rows)

        waiting = over_trials(merges(slot).any().astype(jnp.int32))
        rows = lax.cond(waiting > 0, merge, lambda rows: rows, from_storage(rows))
        return jax.vmap(logits)(private, rows)

    def share(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """rho of all items, as the client would merge now; 0 if it waits for no table."""
        clients, download = state
        _, rows, theta, slot = tree_at(clients, ids)
        rho = jax.vmap(partial(weigh, rho=hyper.rho))(
            theta, from_storage(rows), from_storage(download.items[slot])
        )
        return jnp.where(merges(slot)[:, None], rho, 0.0)

    def scratch(block: int) -> dict[str, int]:
        """Merging: own and aggregated table and their merger, [I D]; rows of both tables, both
        moments and the gradient, [M D]; the adapter's hidden layers, [I]. Evaluating, with NCF:
        the network's input and widest layer, [I]. Aggregating: a copy of the uploads, their
        signatures, and 6 arrays of clients by clients. Uploading, with noise or a bound: the tables
        before and after; one client's, its noise and its bits."""
        dim = config.dim
        numbers = training_scratch(layout, num_items, dim, block, tables=3 if downloads else 1)
        if config.backbone == "ncf":
            numbers["evaluate"] += block * num_items * ncf.inside(dim, config.network_widths)
        numbers["aggregate"] = num_served * (num_items * (dim + 2) + 6 * num_served)
        if config.ldp_scale or config.ldp_clip:
            numbers["upload"] = (2 * num_served + 4) * num_items * dim
        if downloads:
            hidden, rows = sum(config.adapter_widths) + 3, max(c.rows for c in layout.classes)
            numbers["merge"] = numbers["train"] + block * (
                num_items * (3 * dim + hidden) - rows * dim
            )
        return numbers

    table = stored.itemsize * num_items * config.dim
    traffic = Traffic(up=num_served * (table + 4), down=num_served * table * downloads)
    elastic = Elastic(learned, lambda state: merges(state.clients.slot), share)
    return Algorithm(init, round, score, num_items, Hyper.of(config), traffic, scratch, elastic)


def serve(config: FedEM, layout: Layout, draws: Draws, upload: Upload, hyper: Hyper) -> Download:
    """The server's step, on nothing but the uploads."""
    tables, shares, alike = from_storage(upload.items), sample_shares(upload.samples), None
    if config.aggregation != "avg":
        axes = principal_axes(tables)
        scores = principal_scores(tables, axes)
        scores = scores * draws.signs(axes, scores)[:, None]
        alike = saturate(SIMILARITIES[config.similarity](scores))
    weights = aggregation_weights(config.aggregation, shares, alike, hyper.alpha)
    tables = aggregated(layout.split(weights), tables)
    return Download(to_storage(tables, upload.items.dtype))

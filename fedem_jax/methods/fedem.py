"""FedEM (Chen, Zhang, Zhang, Luo, Li, AAAI 2026): personalised model merging against the
aggregation bottleneck.

    clients, in parallel:  Q_u <- Q_u + rho_u (G_u - Q_u),  rho_u = sigmoid(MLP([Q_u ; G_u - Q_u]))
                           (theta_u, p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
                           upload Q_u
    server, over A of them:  s_uv = similarity of the tables' first principal scores
                             w_u  = projection of p + alpha s_u onto the simplex,  p_v = n_v / sum n
                             G_u  = sum_v w_uv Q_v, downloaded by u
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from fedem_jax.aggregate import aggregated, aggregation_weights, sample_shares
from fedem_jax.base import Algorithm, Info, State, Traffic
from fedem_jax.clients import Layout
from fedem_jax.config import Config
from fedem_jax.draws import Draws
from fedem_jax.local import Change, Phase, Rule, exact, fit_embedding, train_clients, tree_at
from fedem_jax.losses import LOSSES
from fedem_jax.merge import fit_adapter, fit_elastic, merged
from fedem_jax.models.adapter import Adapter
from fedem_jax.models.fcf import FCF, item_table
from fedem_jax.similarity import SIMILARITIES, principal_axes, principal_scores, rounded_up


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

    @classmethod
    def of(cls, config: Config) -> Hyper:
        """The numbers of a configuration."""
        constant = {"replace": 1.0, "none": 0.0, "per-batch": jnp.nan, "once": jnp.nan}
        rho = constant[config.merging] if config.merging in constant else float(config.merging)
        numbers = (config.lr_embedding, config.lr_adapter, config.alpha, config.threshold, rho)
        return cls(*(jnp.float32(number) for number in numbers))


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more."""

    private: Any
    """[C ...] the backbone's own parameters (the user vectors p_u); they never leave a client."""
    items: Float[Array, "C I D"]
    """Q_u, each client's own item table, before merging."""
    adapter: Any
    """[C ...] theta_u, the adapters; they never leave a client."""
    slot: Int[Array, " C"]
    """Row of the server's tables that the client was served with; -1: none."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients."""

    items: Float[Array, "A I D"]
    samples: Int[Array, " A"]


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated, or one for all."""

    items: Float[Array, "R I D"]


NOT_SERVED = -1
"""Slot of a client that waits for no table."""


def fedem(config: Config, num_items: int, layout: Layout, samples: Int[Array, " C"]) -> Algorithm:
    """FedEM on one federation.

    Args:
        config: sizes and switches; its numbers reach `round` and `score` as `Hyper`.
        num_items: I.
        layout: how the clients are laid out over devices, size classes and blocks.
        samples: samples that each client trains on in a round, positives and negatives.
    """
    backbone, adapter = FCF(config.dim, config.init_scale), Adapter(config.adapter_widths)
    loss = LOSSES[config.bce]
    _, num_served = round_sizes(config, layout.number)
    num_tables = 1 if config.aggregation == "avg" else num_served
    stored = jnp.dtype(config.table_dtype)

    def logits(private, rows) -> Float[Array, "*M"]:
        return jnp.asarray(backbone.apply({"params": private}, rows))

    def objective(private, rows, labels, weights):
        """Binary cross-entropy of the backbone's scores, weighted sum over the rows."""
        return jnp.sum(weights * loss(logits(private, rows), labels))

    def weigh(theta, local, aggregated, rho) -> Float[Array, "*M"]:
        """rho: the share of the aggregated row, item by item."""
        if config.merging in ("per-batch", "once"):
            return jnp.asarray(adapter.apply({"params": theta}, local, aggregated))
        return jnp.full(local.shape[:-1], rho)

    def init(key: Key[Array, ""]) -> State:
        """Everybody starts from the same Q_0, p_0 and theta_0; they drift apart by training."""
        key_items, key_private, key_adapter = jax.random.split(key, 3)
        table = item_table(key_items, num_items, config.dim, config.init_scale).astype(stored)
        private = backbone.init(key_private, table)["params"]
        theta = adapter.init(key_adapter, table, table)["params"]
        clients = Clients(private, table, theta, slot=jnp.int32(NOT_SERVED))
        clients = jax.tree.map(lambda x: jnp.broadcast_to(x, (layout.padded, *x.shape)), clients)
        return State(clients, Download(jnp.zeros((num_tables, num_items, config.dim), stored)))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        participants = draws.participants()
        clients, info = train(draws, state, participants, hyper)
        chosen = draws.aggregated(participants)
        upload = Upload(items=clients.items[chosen], samples=jnp.asarray(samples)[chosen])
        download = serve(config, draws, upload, hyper)
        table = jnp.arange(num_served, dtype=jnp.int32) % num_tables
        slot = jnp.full(layout.padded, NOT_SERVED, jnp.int32).at[chosen].set(table)
        return State(clients._replace(slot=slot), download), info

    def train(draws: Draws, state: State, participants, hyper: Hyper) -> tuple[Clients, Info]:
        """Clients in parallel: those that were served merge first, then everybody trains."""
        rule = Rule(config.batch_size, config.local_epochs, hyper.threshold)
        phases = [
            Phase(partial(train_own, hyper), lambda c: ~merges(c.slot), layout.classes),
            Phase(partial(merge_and_train, hyper), lambda c: merges(c.slot), layout.coarse),
        ]
        if config.merging == "none":
            phases = phases[:1]
        return train_clients(phases, layout, draws, rule, num_items, state, participants)

    def merges(slot: Int[Array, "*C"]) -> Bool[Array, "*C"]:
        """Who was served; nobody merges where the method never downloads."""
        return (slot != NOT_SERVED) & (config.merging != "none")

    def train_own(hyper: Hyper, session, clients: Clients, _, id) -> Change:
        """A client that was not served: local epochs on its own table."""
        private, rows = tree_at(clients.private, id), session.rows
        private, table, trained = fit_embedding(
            objective, private, exact(clients.items[id, rows]), session, hyper.lr_embedding
        )
        return Change({"private": private}, rows, table, trained)

    def merge_and_train(hyper: Hyper, session, clients: Clients, download, id) -> Change:
        """A client that was served: elastic merging, then local epochs."""
        private, table, theta, slot = tree_at(clients, id)
        table, target = exact(table), exact(download.items[slot])
        rows, rho = session.rows, partial(weigh, rho=hyper.rho)
        if config.merging == "once":
            theta = fit_adapter(
                objective, rho, theta, private, table[rows], target[rows], session, hyper.lr_adapter
            )
        table = merged(table, target, rho(theta, table, target))
        if config.merging == "per-batch":
            theta, private, new_rows, trained = fit_elastic(
                objective, rho, theta, private, table[rows], target[rows], session,
                hyper.lr_adapter, hyper.lr_embedding,
            )  # fmt: skip
        else:
            private, new_rows, trained = fit_embedding(
                objective, private, table[rows], session, hyper.lr_embedding
            )
        table, every = table.at[rows].set(new_rows, mode="drop"), jnp.arange(num_items)
        return Change({"private": private, "adapter": theta}, every, table, trained)

    def score(state: State, ids: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: merged, if just served."""
        clients, download = state
        private, rows, theta, slot = tree_at(clients, ids)

        def merge(rows):
            target = exact(download.items[slot])
            rho = jax.vmap(partial(weigh, rho=hyper.rho))(theta, rows, target)
            return jnp.where(merges(slot)[:, None, None], merged(rows, target, rho), rows)

        rows = lax.cond(jnp.any(merges(slot)), merge, lambda rows: rows, exact(rows))
        return jax.vmap(logits)(private, rows)

    table = stored.itemsize * num_items * config.dim
    traffic = Traffic(up=num_served * (table + 4), down=num_served * table)
    return Algorithm(init, round, score, num_items, Hyper.of(config), traffic)


def serve(config: Config, draws: Draws, upload: Upload, hyper: Hyper) -> Download:
    """The server's step, on nothing but the uploads."""
    tables, shares, alike = exact(upload.items), sample_shares(upload.samples), None
    if config.aggregation != "avg":
        axes = principal_axes(tables)
        scores = principal_scores(tables, axes)
        scores = scores * draws.signs(axes, scores)[:, None]
        alike = rounded_up(SIMILARITIES[config.similarity](scores))
    weights = aggregation_weights(config.aggregation, shares, alike, hyper.alpha)
    return Download(aggregated(weights, tables).astype(upload.items.dtype))


def round_sizes(config: Config, num_clients: int) -> tuple[int, int]:
    """Clients that train in a round, and those of them that are aggregated; at least one each."""
    participants = max(1, int(num_clients * config.client_fraction))
    return participants, max(1, int(participants * config.aggregation_fraction))

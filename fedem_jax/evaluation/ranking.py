"""Ranks of the held-out items. Every client ranks with the model that it would use."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.layout import Layout
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import summarise
from fedem_jax.evaluation.records import PARTS


class HeldOut(NamedTuple):
    """Held-out items of every client, and the K candidates that each is ranked against."""

    val_item: Int[Array, " C"]
    test_item: Int[Array, " C"]
    val_candidates: Int[Array, "C K"]
    test_candidates: Int[Array, "C K"]


class Ranks(NamedTuple):
    """Rank of each client's held-out item, from 1."""

    val: Float[Array, " C"]
    """Validation item among its sampled candidates."""
    test: Float[Array, " C"]
    """Test item among its sampled candidates."""
    val_full: Float[Array, " C"]
    """Validation item among all items but the client's training items."""
    test_full: Float[Array, " C"]
    """Test item among all items but the client's training items and its validation item."""
    listed: Int[Array, "C L"]
    """The L best items outside the client's training items: what the client would be shown."""
    finite: Bool[Array, " C"]
    """False where a score was NaN or infinite, so that the client's ranks are meaningless."""


class Ranking(NamedTuple):
    """How scores become ranks."""

    ties: str
    """Whether all equal scores rank ahead (`pessimistic`), or half of them (`average`)."""
    scale: str
    """`logit`, or `probability` in float32, where large logits tie at 1 (released programs)."""
    length: int
    """L, number of items that a client would be shown."""


def rank(
    held_out: Float[Array, "*C"], others: Float[Array, "*C K"], ties: str
) -> Float[Array, "*C"]:
    """1 + number of `others` that score higher, + all (`pessimistic`) or half (`average`) of those
    that score equally. Scores must not be NaN; a score of -inf leaves an item out."""
    higher = jnp.sum(others > held_out[..., None], axis=-1)
    equal = jnp.sum(others == held_out[..., None], axis=-1)
    return 1.0 + higher + (equal if ties == "pessimistic" else 0.5 * equal)


def rank_one(
    ranking: Ranking, scores: Float[Array, " I"], held_out: HeldOut, known: Int[Array, " n"]
) -> Ranks:
    """Ranks of one client.

    Args:
        ranking: how scores become ranks.
        scores: logits of all items.
        held_out: the client's held-out items and candidates, without the client axis.
        known: its training items, padded with I.
    """
    finite = jnp.isfinite(scores).all()
    if ranking.scale == "probability":
        scores = jax.nn.sigmoid(scores)
    val, test = scores[held_out.val_item], scores[held_out.test_item]
    shown = scores.at[known].set(-jnp.inf, mode="drop")
    unknown = shown.at[held_out.val_item].set(-jnp.inf)
    return Ranks(
        val=rank(val, scores[held_out.val_candidates], ranking.ties),
        test=rank(test, scores[held_out.test_candidates], ranking.ties),
        val_full=rank(val, unknown, ranking.ties),
        test_full=rank(test, unknown.at[held_out.test_item].set(-jnp.inf), ranking.ties),
        listed=lax.top_k(shown, min(ranking.length, len(scores)))[1],
        finite=finite,
    )


def rank_all(
    algorithm: Algorithm, layout: Layout, state: State, lists: Lists, held_out: HeldOut,
    hyper: Any, ranking: Ranking,
) -> Ranks:  # fmt: skip
    """Ranks of all clients, block after block. Every device ranks its own clients.

    Args:
        algorithm: the method that scores the items.
        layout: places of the clients.
        state: parameters of clients and server.
        lists: training items of the clients.
        held_out: held-out items and candidates, in order of place.
        hyper: the method's numbers.
        ranking: how scores become ranks.
    """
    capacity = max(size.positives for size in layout.classes)
    num_items = layout.num_items

    def on_device(clients, server, held_out, client_at):
        def known(place):
            items, count = lists.positives(client_at[place], capacity)
            return jnp.where(jnp.arange(capacity) < count, items, num_items)

        def block(places):
            scores = algorithm.score(State(clients, server), places, hyper)
            own = HeldOut(*(leaf[places] for leaf in held_out))
            return jax.vmap(partial(rank_one, ranking))(scores, own, jax.vmap(known)(places))

        num_blocks = -(-layout.shard // layout.block)
        places = jnp.arange(num_blocks * layout.block, dtype=jnp.int32)
        places = jnp.minimum(places, layout.shard - 1).reshape(num_blocks, layout.block)
        ranks = lax.map(block, places)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: layout.shard], ranks)

    client_at = jnp.asarray(layout.client)
    return layout.on_each_device(on_device, state.clients, state.server, held_out, client_at)


def evaluate(
    federation: Federation, scores: Real[np.ndarray, "_ I"], k: int = 10
) -> dict[str, dict[str, float]]:
    """Metrics of any scores under a federation's protocol, with the candidates that runs use.

    Args:
        federation: the split.
        scores: of every client for every item, such as logits; higher is better. [1, I]: the same
            scores for all clients.
        k: K that is reported beside `CUTOFFS`.

    Returns:
        metrics by name, for each of `PARTS`.

    Raises:
        UserError: the scores have another shape or are not finite.
    """
    scores, shape = np.asarray(scores), (federation.num_clients, federation.num_items)
    if scores.shape not in (shape, (1, shape[1])):
        raise UserError(f"scores: have shape {list(scores.shape)}; expected {list(shape)}.")
    ranking = Ranking(federation.protocol.ties, federation.protocol.scale, k)
    one = jax.jit(partial(rank_one, ranking))
    capacity, ranks = int(np.diff(federation.offsets).max()), []
    for client in range(federation.num_clients):
        train = federation.train_items(client)
        known = np.pad(train, (0, capacity - len(train)), constant_values=federation.num_items)
        own = HeldOut(*(getattr(federation, name)[client] for name in HeldOut._fields))
        ranks.append(one(scores[client % len(scores)].astype(np.float32), own, known))
    if not all(rank.finite for rank in ranks):
        lost = next(client for client, rank in enumerate(ranks) if not rank.finite)
        raise UserError(f"scores: those of client {lost} are not all finite.")
    return {part: summarise(np.array([getattr(r, part) for r in ranks]), k) for part in PARTS}

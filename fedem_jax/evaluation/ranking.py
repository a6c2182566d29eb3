"""Ranks of the held-out items. Every client ranks with the model that it would use."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.config.values import whole
from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.layout import Layout
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import summarise


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


def evaluate(federation: Federation, scores: Any, k: Any = 10) -> dict[str, dict[str, float]]:
    """Metrics of any scores under a federation's protocol, with the candidates that runs use.

    Scores are compared as they are given, in their own precision. The float32 probabilities of the
    released programs (`scale`) belong to their training alone; scores that are to be ranked like
    that are given as such probabilities.

    Args:
        federation: the split.
        scores: [C, I], of every client for every item, such as logits; higher is better. -inf puts
            an item last. [1, I]: the same scores for all clients.
        k: K that is reported beside `CUTOFFS`.

    Returns:
        metrics by name, for each of `PARTS`.

    Raises:
        UserError: the scores have another shape, are no numbers, NaN or +inf, or `k` is no cutoff.
    """
    k = whole("k", k, 1)
    scores, shape = np.asarray(scores), (federation.num_clients, federation.num_items)
    if scores.shape not in (shape, (1, shape[1])):
        raise UserError(f"scores: have shape {list(scores.shape)}; expected {list(shape)}.")
    if not (jnp.issubdtype(scores.dtype, np.bool) or jnp.issubdtype(scores.dtype, np.number)):
        raise UserError(f"scores: are no numbers but {scores.dtype}; give integers or floats.")
    if jnp.issubdtype(scores.dtype, np.complexfloating):
        raise UserError("scores: are complex numbers, which have no order; give real ones.")
    if not jnp.issubdtype(scores.dtype, np.integer):
        lost = (np.isnan(scores) | (scores == np.inf)).any(axis=1)
        if lost.any():
            raise UserError(f"scores: those of client {lost.argmax()} hold NaN or +inf.")
    check_cutoff("k", k, federation)
    ranks: dict[str, list[float]] = {"val": [], "test": [], "val_full": [], "test_full": []}
    for client in range(federation.num_clients):
        row, ties = scores[client % len(scores)], federation.protocol.ties
        val, test = federation.val_item[client], federation.test_item[client]
        unknown = np.ones(federation.num_items, bool)
        unknown[federation.train_items(client)] = unknown[val] = False
        ranks["val"].append(_rank(row[val], row[federation.val_candidates[client]], ties))
        ranks["test"].append(_rank(row[test], row[federation.test_candidates[client]], ties))
        ranks["val_full"].append(_rank(row[val], row[unknown], ties))
        unknown[test] = False
        ranks["test_full"].append(_rank(row[test], row[unknown], ties))
    return {part: summarise(np.array(each), k) for part, each in ranks.items()}


def _rank(held_out: Any, others: np.ndarray, ties: str) -> float:
    """As `rank`, of one client, on the host: in the precision of the scores."""
    equal = float((others == held_out).sum())
    return 1.0 + float((others > held_out).sum()) + (equal if ties == "pessimistic" else equal / 2)


def check_cutoff(name: str, k: int, federation: Federation) -> None:
    """Refuse a list in which every held-out item stands, whatever its rank among the candidates:
    rounds would be chosen, and methods compared, by a number that is always 1.

    Args:
        name: what the user calls `k`.

    Raises:
        UserError: it is one; says from where on.
    """
    shortest = min(federation.val_candidates.shape[1], federation.test_candidates.shape[1])
    if k > shortest:
        raise UserError(
            f"{name}: among {shortest} candidates and the held-out item every rank is at most "
            f"{shortest + 1}, so HR@{k} is always 1; give a smaller {name}."
        )

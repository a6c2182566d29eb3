"""Ranks of the held-out items. Every client ranks with the model that it would use."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

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
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.evaluation.records import PARTS, Part


class HeldOutPart(NamedTuple):
    """Held-out items of one part on the devices, each with the K candidates it is ranked among.

    The items of a client are neighbours. Each device has the rows of its own clients.
    """

    start: Int[Array, " C"]
    """First row of each client, counted from the first row of its device."""
    count: Int[Array, " C"]
    """Its number of rows."""
    owner: Int[Array, " R"]
    """Place of the client of each row, counted over all devices; C for a row that is not used."""
    item: Int[Array, " R"]
    candidates: Int[Array, "R K"]


class HeldOut(NamedTuple):
    """Held-out items of all clients."""

    val: HeldOutPart
    test: HeldOutPart


class Ranks(NamedTuple):
    """Ranks of the held-out items, from 1: one for each row of `HeldOut`.

    Other held-out items of the client in the same part are left out of the count.
    """

    val: Float[Array, " V"]
    """Validation item among its sampled candidates."""
    test: Float[Array, " T"]
    """Test item among its sampled candidates."""
    val_full: Float[Array, " V"]
    """Validation item among all items but the client's training items."""
    test_full: Float[Array, " T"]
    """Test item among all items but the client's training and validation items."""
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
    most: int = 1
    """Most held-out items of a client in a part."""


def rank(
    held_out: Float[Array, "*C"], others: Float[Array, "*C K"], ties: str
) -> Float[Array, "*C"]:
    """1 + number of `others` that score higher, + all (`pessimistic`) or half (`average`) of those
    that score equally. Scores must not be NaN; a score of -inf leaves an item out."""
    higher = jnp.sum(others > held_out[..., None], axis=-1)
    equal = jnp.sum(others == held_out[..., None], axis=-1)
    return 1.0 + higher + (equal if ties == "pessimistic" else 0.5 * equal)


def rank_rows(
    ranking: Ranking, scores: Float[Array, "B I"], shown: Float[Array, "B I"], part: HeldOutPart,
    places: Int[Array, " B"], ranks: tuple[Array, Array],
) -> tuple[Float[Array, "B I"], tuple[Array, Array]]:  # fmt: skip
    """Rank the held-out items of a block of clients, one row of each client after the other.

    Args:
        ranking: how scores become ranks.
        scores: of all items.
        shown: the same, with -inf for items that are left out of the full ranking.
        part: the held-out items.
        places: of the clients.
        ranks: [R] ranks among the candidates and among all items; those of the block are set.

    Returns:
        `shown` with -inf for the held-out items as well, and the ranks.
    """
    client, count, end = jnp.arange(len(places)), part.count[places], part.item.shape[0]

    def rows(number):
        row = jnp.where(number < count, part.start[places] + number, end)
        return row, part.item.at[row].get(mode="fill", fill_value=scores.shape[1])

    def leave_out(number, shown):
        return shown.at[client, rows(number)[1]].set(-jnp.inf, mode="drop")

    def add(number, ranks):
        row, item = rows(number)
        candidates = part.candidates.at[row].get(mode="clip")
        own = scores.at[client, item].get(mode="clip")
        among = rank(own, scores[client[:, None], candidates], ranking.ties)
        full = rank(own, shown, ranking.ties)
        return ranks[0].at[row].set(among, mode="drop"), ranks[1].at[row].set(full, mode="drop")

    if ranking.most == 1:
        shown = leave_out(0, shown)
        return shown, add(0, ranks)
    longest = count.max(initial=0)
    shown = lax.fori_loop(0, longest, leave_out, shown)
    return shown, lax.fori_loop(0, longest, add, ranks)


def nothing_ranked(held_out: HeldOut) -> list[tuple[Array, Array]]:
    """Ranks before any client has ranked: of each part, among the candidates and all items."""
    return [(jnp.ones(part.item.shape), jnp.ones(part.item.shape)) for part in held_out]


def rank_all(
    algorithm: Algorithm, layout: Layout, state: State, lists: Lists, held_out: HeldOut,
    hyper: Any, ranking: Ranking, so_far: Any = None,
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
        so_far: ranks of clients that are not in this layout, as `nothing_ranked` begins them; None:
            all clients are in it.
    """
    capacity = max(size.positives for size in layout.classes)
    num_items = layout.num_items

    def on_device(clients, server, held_out: HeldOut, client_at, so_far):
        def known(place):
            items, count = lists.positives(client_at[place], capacity)
            return jnp.where(jnp.arange(capacity) < count, items, num_items)

        def block(ranks, places):
            scores = algorithm.score(State(clients, server), places, hyper)
            finite = jnp.isfinite(scores).all(axis=1)
            if ranking.scale == "probability":
                scores = jax.nn.sigmoid(scores)
            client = jnp.arange(len(places))[:, None]
            shown = scores.at[client, jax.vmap(known)(places)].set(-jnp.inf, mode="drop")
            listed = lax.top_k(shown, min(ranking.length, num_items))[1]
            left, val = rank_rows(ranking, scores, shown, held_out.val, places, ranks[0])
            _, test = rank_rows(ranking, scores, left, held_out.test, places, ranks[1])
            return (val, test), (listed, finite)

        width = layout.width(layout.shard)
        num_blocks = -(-layout.shard // width)
        places = jnp.arange(num_blocks * width, dtype=jnp.int32)
        places = jnp.minimum(places, layout.shard - 1).reshape(num_blocks, width)
        (val, test), of_blocks = lax.scan(block, tuple(so_far), places)
        listed, finite = (leaf.reshape(-1, *leaf.shape[2:])[: layout.shard] for leaf in of_blocks)
        return Ranks(val[0], test[0], val[1], test[1], listed, finite)

    so_far = nothing_ranked(held_out) if so_far is None else so_far
    others = (held_out, jnp.asarray(layout.client), so_far)
    return layout.on_each_device(on_device, state.clients, state.server, *others)


def weighed(
    ranking: Ranking, held_out: HeldOutPart, rank: Float[Array, " R"], part: Part
) -> tuple[Float[Array, " R"], Float[Array, "2 R"]]:
    """Position of each held-out item in its list, and its weight in HR@L and in NDCG@L.

    The metric of a client is a weighted sum over its items at positions up to L. An item gains 1 or
    1 / log2(1 + position) (`fedem_jax.evaluation.metrics`).

    Args:
        ranking: how scores became ranks; L is its length.
        held_out: the items.
        rank: their ranks.
        part: the part that they belong to.
    """
    count, owner = held_out.count, held_out.owner
    if ranking.most > 1 and part.endswith("_full"):  # one list for all items of a client
        in_order = jnp.lexsort((rank, owner))
        owner = owner[in_order]
        first = jnp.cumsum(count) - count
        before = jnp.arange(len(rank)) - first.at[owner].get(mode="clip")
        best = jnp.cumsum(1 / jnp.log2(2.0 + jnp.arange(ranking.length)))
        best = best[jnp.clip(count, 1, ranking.length) - 1].at[owner].get(mode="clip")
        position, hit, gain = rank[in_order] + before, before == 0, 1 / best
    else:
        hit = gain = 1 / jnp.maximum(count, 1).at[owner].get(mode="clip")
        position = rank
    used = owner < len(count)
    return position, jnp.where(used, jnp.stack([hit.astype(gain.dtype), gain]), 0.0)


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

    Examples:
        >>> import numpy as np
        >>> shop = fj.load("synthetic")
        >>> popularity = np.bincount(shop.items, minlength=shop.num_items)  # [I]
        >>> metrics = fj.evaluate(shop, popularity[None])
        >>> round(metrics["test"]["hr@10"], 3)
        0.375
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
    ranks: dict[Part, list[float]] = {part: [] for part in PARTS}
    for client in range(federation.num_clients):
        row, ties = scores[client % len(scores)], federation.protocol.ties
        left = np.ones(federation.num_items, bool)
        left[federation.train_items(client)] = False
        for part, full in PAIRS:
            items = federation.held_out(part, client)
            left[items] = False
            first = getattr(federation, f"{part}_offsets")[client]
            candidates = getattr(federation, f"{part}_candidates")[first : first + len(items)]
            ranks[part] += [
                _rank(row[item], row[others], ties)
                for item, others in zip(items, candidates, strict=True)
            ]
            ranks[full] += [_rank(row[item], row[left], ties) for item in items]
    return {
        part: summarise(held_out_ranks(federation, part, np.array(each)), k)
        for part, each in ranks.items()
    }


PAIRS: tuple[tuple[Literal["val", "test"], Part], ...] = (
    ("val", "val_full"),
    ("test", "test_full"),
)
"""A part among sampled candidates, and among all items."""


def held_out_ranks(federation: Federation, part: Part, rank: Any) -> HeldOutRanks:
    """The ranks of one part by client; `rank` is in the order of the federation."""
    offsets = federation.val_offsets if part.startswith("val") else federation.test_offsets
    return HeldOutRanks(np.asarray(rank), offsets, together=part.endswith("_full"))


def _rank(held_out: Any, others: np.ndarray, ties: str) -> float:
    """As `rank`, of one client, on the host: in the precision of the scores."""
    equal = float((others == held_out).sum())
    return 1.0 + float((others > held_out).sum()) + (equal if ties == "pessimistic" else equal / 2)


def check_cutoff(name: str, k: int, federation: Federation) -> None:
    """Refuse a list that is so long that it always holds the held-out item.

    HR would always be 1. Rounds would be chosen, and methods compared, by a constant.

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

"""Sampled items that held-out items are ranked against."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedem_jax.config.protocol import Protocol
from fedem_jax.errors import UserError


class Seen(NamedTuple):
    """The sorted distinct items of each client in all parts, as ragged lists."""

    offsets: np.ndarray
    """[N+1] where the list of each client starts in `items`."""
    items: np.ndarray
    num_items: int
    """I."""

    @property
    def outside(self) -> np.ndarray:
        """[N] number of items that each client never interacted with."""
        return self.num_items - np.diff(self.offsets)


def candidates(
    seen: Seen, owners: tuple[np.ndarray, np.ndarray], protocol: Protocol, seed: int, name: str,
    user_ids: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Candidates of the validation and of the test items, [n, K] each.

    With one item each (leave-one-out), validation and test of a client get the same candidates, or
    two disjoint lists (`candidates`). With several, each held-out item gets its own. They are drawn
    from the items outside the history of the client: from all (`shared`), or from one random half
    for validation and the other for test (`split`).

    Args:
        seen: what the clients interacted with.
        owners: client of each validation and of each test item.
        protocol: the rules.
        seed: of the draw.
        name: of the data, for the error sentence.
        user_ids: [N] labels of the clients, for the error sentence.

    Raises:
        UserError: too few items lie outside the history of a client.
    """
    lists = 1 if protocol.candidates == "shared" else 2
    need, outside = lists * protocol.num_candidates, seen.outside
    if outside.min() < need:
        client = int(outside.argmin())
        raise _too_few(str(user_ids[client]), int(outside[client]), need, protocol, name)
    rng = np.random.default_rng(seed)
    if protocol.split == "leave-one-out":
        ranks = np.stack([rng.choice(pool, need, replace=False) for pool in outside])
        drawn = nth_missing(seen.offsets, seen.items, seen.num_items, ranks)
        return drawn[:, : protocol.num_candidates], drawn[:, -protocol.num_candidates :]
    ranks = [np.zeros((len(owner), protocol.num_candidates), np.int64) for owner in owners]
    ends = [np.searchsorted(owner, np.arange(len(outside) + 1)) for owner in owners]
    for client, pool in enumerate(outside):
        order = rng.permutation(pool)
        halves = (order, order) if lists == 1 else (order[: pool // 2], order[pool // 2 :])
        for part, half in enumerate(halves):
            for row in range(ends[part][client], ends[part][client + 1]):
                ranks[part][row] = rng.choice(half, protocol.num_candidates, replace=False)
    val, test = (
        nth_missing(seen.offsets, seen.items, seen.num_items, rank, owner)
        for rank, owner in zip(ranks, owners, strict=True)
    )
    return val, test


def nth_missing(
    offsets: np.ndarray,
    members: np.ndarray,
    num_items: int,
    ranks: np.ndarray,
    owner: np.ndarray | None = None,
) -> np.ndarray:
    """[n, K] the items of these ranks (from 0) among those missing from a client's list.

    Args:
        offsets: [N+1] where the list of each client starts in `members`.
        members: [nnz] sorted distinct items of each client.
        num_items: I.
        ranks: [n, K], each below the number of items missing from the list of its client.
        owner: [n] the client of each row of `ranks`; None: one row for each client.

    The j-th member m_j, from j = 0, has m_j - j missing items below it. So the item of rank r is r
    plus the number of members with m_j - j <= r. One binary search serves all clients, since the
    numbers of client u are shifted by u (I + 1).
    """
    sizes = np.diff(offsets)
    client = np.repeat(np.arange(len(sizes)), sizes)
    owner = np.arange(len(sizes)) if owner is None else owner
    missing_below = members - (np.arange(len(members)) - offsets[client])
    keys = missing_below + client * (num_items + 1)
    shifted = ranks + (owner * (num_items + 1))[:, None]
    return ranks + np.searchsorted(keys, shifted, side="right") - offsets[owner][:, None]


def _too_few(user: str, outside: int, need: int, protocol: Protocol, name: str) -> UserError:
    lists = need // protocol.num_candidates
    remedies = []
    if outside >= lists:
        remedies.append(f"lower num_candidates to at most {outside // lists}")
    if lists > 1 and outside >= protocol.num_candidates:
        remedies.append("use shared candidates, as protocol 'paper' does")
    remedies.append("leave this user out")
    return UserError(
        f"{name}: only {outside} items lie outside the history of user '{user}', but "
        f"protocol '{protocol.name}' draws {need} candidates from them; {', or '.join(remedies)}."
    )

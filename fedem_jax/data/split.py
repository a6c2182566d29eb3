"""`Interactions` -> `Federation`: filter, number, hold out, draw candidates."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError


def split(interactions: Interactions, protocol: Protocol, seed: int, name: str) -> Federation:
    """Make every user with enough interactions a client, and hold out its two latest items.

    1. Rows with a rating <= 0 are dropped. Of repeated (user, item) rows all are kept
       (`repeats="keep"`), or only the first in time (`"collapse"`). Then users with too few rows
       are dropped.
    2. Users and items are numbered from 0 in the order in which the remaining rows name them.
    3. The latest item of a client is its test item, the second latest its validation item. The
       rest are its training items. **Of equal times, the first row of the file is the latest**,
       or the last row with `ties_latest="last"`.
    4. Candidates are drawn uniformly without replacement from the items that the client never
       interacted with. `seed` is the only source of randomness.

    Raises:
        UserError: no user is left, or a user has fewer than 3 interactions. Or too few items lie
            outside the history of a user for the candidates.
    """
    kept, cleaning = _clean(interactions.frame, protocol, name)
    frame = interactions.frame.iloc[kept]
    user, user_ids = pd.factorize(frame["user"])
    item, item_ids = pd.factorize(frame["item"])
    user_ids, item_ids = np.array(user_ids), np.array(item_ids)
    num_clients, num_items = len(user_ids), len(item_ids)

    rows = np.arange(len(frame))
    later = rows if interactions.ties_latest == "last" else -rows
    oldest_first = np.lexsort((later, frame["time"].to_numpy(), user))
    user, item = user[oldest_first], item[oldest_first]
    time = frame["time"].to_numpy()[oldest_first]
    end = np.cumsum(np.bincount(user))
    sizes = np.diff(end, prepend=0)
    if sizes.min() < 3:
        client = int(sizes.argmin())
        raise UserError(
            f"{name}: user '{user_ids[client]}' has {sizes[client]} interactions, but training, "
            "validation and test need one each; raise min_interactions to at least 3."
        )
    train = np.ones(len(user), bool)
    train[end - 1] = train[end - 2] = False
    tied = (time[end - 1] == time[end - 2]) | (time[end - 2] == time[end - 3])

    seen_offsets, seen = _distinct(user, item, num_clients, num_items)
    if protocol.negative_pool == "unseen":
        barred_offsets, barred = seen_offsets, seen
    else:
        barred_offsets, barred = _distinct(user[train], item[train], num_clients, num_items)
    val_candidates, test_candidates = _candidates(
        seen_offsets, seen, num_items, protocol, seed, name, user_ids
    )
    arrays = {
        "offsets": _offsets(sizes - 2),
        "items": item[train],
        "barred_offsets": barred_offsets,
        "barred": barred,
        "val_item": item[end - 2],
        "test_item": item[end - 1],
        "val_candidates": val_candidates,
        "test_candidates": test_candidates,
    }
    arrays = {field: _frozen(values.astype(np.int32)) for field, values in arrays.items()}
    return Federation(
        name=name,
        protocol=protocol,
        num_items=num_items,
        user_ids=_frozen(user_ids),
        item_ids=_frozen(item_ids),
        seed=seed,
        fingerprint=_fingerprint(arrays, protocol),
        columns_read=interactions.columns_read,
        cleaning=cleaning
        | {
            "users": num_clients,
            "items": num_items,
            "interactions": len(user),
            "tied_users": int(tied.sum()),
        },
        **arrays,
    )


def _clean(frame: pd.DataFrame, protocol: Protocol, name: str) -> tuple[np.ndarray, dict[str, int]]:
    """Positions of the rows that are kept, in file order, and counts of what was dropped.

    `rows_repeated` counts the rows after the first of their (user, item) pair. `rows_collapsed`
    counts those of them that are dropped: all with `repeats="collapse"`, else none.
    """
    user, user_ids = pd.factorize(frame["user"])
    item, item_ids = pd.factorize(frame["item"])
    rated = np.flatnonzero(frame["rating"] > 0)
    by_time = rated[np.argsort(frame["time"].to_numpy()[rated], kind="stable")]
    pair = user[by_time] * len(item_ids) + item[by_time]
    first = np.sort(by_time[np.unique(pair, return_index=True)[1]])
    used = first if protocol.repeats == "collapse" else rated

    sizes = np.bincount(user[used], minlength=len(user_ids))
    kept = used[sizes[user[used]] >= protocol.min_interactions]
    cleaning = {
        "rows_read": len(frame),
        "rows_unrated": len(frame) - len(rated),
        "rows_repeated": len(rated) - len(first),
        "rows_collapsed": len(rated) - len(used),
        "users_dropped": int(((sizes > 0) & (sizes < protocol.min_interactions)).sum()),
        "rows_dropped": len(used) - len(kept),
    }
    if not len(kept):
        raise UserError(
            f"{name}: nothing is left of {len(frame)} rows after dropping "
            f"{cleaning['rows_unrated']} with a rating of 0 or less, "
            f"{cleaning['rows_collapsed']} repeated ones and {cleaning['rows_dropped']} of the "
            f"{cleaning['users_dropped']} users with fewer than {protocol.min_interactions} "
            "interactions; check which column is the rating, or give a larger file."
        )
    return kept, cleaning


def _distinct(
    user: np.ndarray, item: np.ndarray, num_clients: int, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [N+1] and items [nnz]: the sorted distinct items of each client, in CSR form."""
    keys = np.sort(user * num_items + item)
    client, items = np.divmod(keys[np.diff(keys, prepend=-1) > 0], num_items)
    return _offsets(np.bincount(client, minlength=num_clients)), items


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _candidates(
    offsets: np.ndarray,
    seen: np.ndarray,
    num_items: int,
    protocol: Protocol,
    seed: int,
    name: str,
    user_ids: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Validation and test candidates, [N, K] each: the same for both, or two disjoint lists."""
    lists = 1 if protocol.candidates == "shared" else 2
    need = lists * protocol.num_candidates
    outside = num_items - np.diff(offsets)
    if outside.min() < need:
        _refuse_candidates(
            int(outside.argmin()), int(outside.min()), need, protocol, name, user_ids
        )
    rng = np.random.default_rng(seed)
    ranks = np.stack([rng.choice(pool, need, replace=False) for pool in outside])
    drawn = nth_missing(offsets, seen, num_items, ranks)
    return drawn[:, : protocol.num_candidates], drawn[:, -protocol.num_candidates :]


def nth_missing(
    offsets: np.ndarray, members: np.ndarray, num_items: int, ranks: np.ndarray
) -> np.ndarray:
    """[N, K] the items of these ranks (from 0) among those missing from a client's list.

    Args:
        offsets: [N+1] where the list of each client starts in `members`.
        members: [nnz] sorted distinct items of each client.
        num_items: I.
        ranks: [N, K], each below the number of items missing from the list of that client.

    The j-th member m_j, from j = 0, has m_j - j missing items below it. So the item of rank r is r
    plus the number of members with m_j - j <= r. One binary search serves all clients, since the
    numbers of client u are shifted by u (I + 1).
    """
    sizes = np.diff(offsets)
    client = np.repeat(np.arange(len(sizes)), sizes)
    missing_below = members - (np.arange(len(members)) - offsets[client])
    shift = np.arange(len(sizes))[:, None] * (num_items + 1)
    keys = missing_below + shift[client, 0]
    return ranks + np.searchsorted(keys, ranks + shift, side="right") - offsets[:-1, None]


def _refuse_candidates(
    client: int, outside: int, need: int, protocol: Protocol, name: str, user_ids: np.ndarray
):
    lists = need // protocol.num_candidates
    remedies = []
    if outside >= lists:
        remedies.append(f"lower num_candidates to at most {outside // lists}")
    if lists > 1 and outside >= protocol.num_candidates:
        remedies.append("use shared candidates, as protocol 'paper' does")
    remedies.append("leave this user out")
    raise UserError(
        f"{name}: only {outside} items lie outside the history of user '{user_ids[client]}', but "
        f"protocol '{protocol.name}' draws {need} candidates from them; {', or '.join(remedies)}."
    )


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def _fingerprint(arrays: dict[str, np.ndarray], protocol: Protocol) -> str:
    """Hash of what a method can see: the arrays and the switches of the protocol, not its name."""
    switches = dataclasses.asdict(protocol)
    del switches["name"]
    digest = hashlib.sha256(json.dumps(switches, sort_keys=True).encode())
    for field, values in arrays.items():
        digest.update(f"{field}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values, "<i4").tobytes())
    return digest.hexdigest()[:16]

"""`Interactions` -> `Federation`: filter, number, hold out, draw candidates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.candidates import Seen, candidates
from fedem_jax.data.cleaning import clean
from fedem_jax.data.federation import Federation
from fedem_jax.data.fingerprint import fingerprint
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.parts import TEST, TRAIN, VAL, Rows, parts, usable
from fedem_jax.errors import UserError


def split(
    interactions: Interactions,
    protocol: Protocol,
    seed: int,
    name: str,
    held_out: tuple[Interactions, Interactions] | None = None,
) -> Federation:
    """Make every user with enough interactions a client, and hold out some of its items.

    1. Rows are dropped by rating, repetition, and number of interactions (`cleaning.clean`).
    2. Each row becomes training, validation or test (`parts.parts`). By default the latest item of
       a client is its test item, and the second latest its validation item. **Of equal times, the
       first row of the file is the latest**, or the last row with `ties_latest="last"`.
    3. Users and items are numbered from 0 in the order in which the remaining rows name them.
    4. Candidates are drawn uniformly without replacement from the items that the client never
       interacted with. `seed` is the only source of randomness.

    Args:
        interactions: all rows, or the training rows.
        protocol: the rules.
        seed: of the candidates.
        name: of the data.
        held_out: validation and test rows, if the rule is `split="given"`.

    Raises:
        UserError: no user is left, or a user has fewer than 3 interactions. Or a part of the split
            is empty. Or too few items lie outside the history of a user for the candidates.
    """
    if (held_out is not None) != (protocol.split == "given"):
        raise UserError(
            f"{name}: validation and test rows of their own (val_file and test_file, or val and "
            "test of a table) belong to split=given, and to no other split."
        )
    frame, part = _joined([interactions, *(held_out or ())])
    kept, cleaning = clean(frame, protocol, name)
    frame, part = frame.iloc[kept], part[kept]
    if protocol.split != "given":
        user, order = _oldest_first(frame, interactions.ties_latest)
        label = frame["user"].to_numpy()[order]
        rows = Rows(user[order], frame["time"].to_numpy()[order], label)
        part[order] = parts(rows, protocol, name)
    if protocol.split != "leave-one-out":
        keep, left_out = usable(frame, part)
        frame, part, cleaning = frame[keep], part[keep], cleaning | left_out
    missing = {"training": TRAIN, "validation": VAL, "test": TEST}
    if empty := [word for word, number in missing.items() if not (part == number).any()]:
        raise UserError(
            f"{name}: no row is left for {' and '.join(empty)}; give files of the same users, "
            "lower thresholds, or other shares."
        )
    return _federation(interactions, frame, part, protocol, seed, name, cleaning)


def _federation(
    interactions: Interactions, frame: pd.DataFrame, part: np.ndarray, protocol: Protocol,
    seed: int, name: str, cleaning: dict[str, int],
) -> Federation:  # fmt: skip
    """Number the rows that are left, and draw candidates. `part`: [rows] in the order of rows."""
    user_ids = np.array(pd.factorize(frame["user"])[1])
    item, item_ids = pd.factorize(frame["item"])
    item_ids = np.array(item_ids)
    num_clients, num_items = len(user_ids), len(item_ids)
    user, order = _oldest_first(frame, interactions.ties_latest)
    user, item, part = user[order], item[order], part[order]
    time = frame["time"].to_numpy()[order]
    train, val, test = part == TRAIN, part == VAL, part == TEST

    seen = _distinct(user, item, num_clients, num_items)
    if protocol.negative_pool == "unseen":
        barred_offsets, barred = seen
    else:
        barred_offsets, barred = _distinct(user[train], item[train], num_clients, num_items)
    val_candidates, test_candidates = candidates(
        Seen(*seen, num_items), (user[val], user[test]), protocol, seed, name, user_ids
    )

    def offsets(chosen: np.ndarray) -> np.ndarray:
        return _offsets(np.bincount(user[chosen], minlength=num_clients))

    arrays = {
        "offsets": offsets(train),
        "items": item[train],
        "barred_offsets": barred_offsets,
        "barred": barred,
        "val_item": item[val],
        "test_item": item[test],
        "val_candidates": val_candidates,
        "test_candidates": test_candidates,
    }
    ends = {"val_offsets": offsets(val), "test_offsets": offsets(test)}
    arrays, ends = (
        {field: _frozen(values.astype(np.int32)) for field, values in group.items()}
        for group in (arrays, ends)
    )
    cohort = _cohorts(frame, name)
    return Federation(
        name=name,
        protocol=protocol,
        num_items=num_items,
        user_ids=_frozen(user_ids),
        item_ids=_frozen(item_ids),
        cohort=_frozen(cohort),
        seed=seed,
        fingerprint=fingerprint(arrays | ends | {"cohort": cohort}, protocol),
        columns_read=interactions.columns_read,
        cleaning=cleaning
        | {
            "users": num_clients,
            "items": num_items,
            "interactions": len(user),
            "tied_users": _tied_users(user, time, part) if protocol.split != "given" else 0,
        },
        **arrays,
        **ends,
    )


def _cohorts(frame: pd.DataFrame, name: str) -> np.ndarray:
    """[N] number of the cohort of each client, in the order in which the rows name them."""
    user, user_ids = pd.factorize(frame["user"])
    if "cohort" not in frame:
        return np.zeros(len(user_ids), np.int32)
    cohort, cohort_ids = pd.factorize(frame["cohort"])
    of_user = np.zeros(len(user_ids), np.int32)
    of_user[user] = cohort
    other = np.flatnonzero(of_user[user] != cohort)
    if len(other):
        row = other[0]
        raise UserError(
            f"{name}: user '{user_ids[user[row]]}' is in cohort '{cohort_ids[cohort[row]]}' and in "
            f"'{cohort_ids[of_user[user[row]]]}'; a user has one cohort."
        )
    return of_user


def _joined(files: list[Interactions]) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of all files, one after the other, and the part of each: the number of its file.

    Labels of files that differ in type are compared as texts.
    """
    frames = [each.frame for each in files]
    part = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
    if len(frames) == 1:
        return frames[0], part
    for column in ("user", "item"):
        if len({frame[column].dtype.kind for frame in frames}) > 1:
            frames = [frame.assign(**{column: frame[column].astype(str)}) for frame in frames]
    return pd.concat(frames, ignore_index=True), part


def _oldest_first(frame: pd.DataFrame, ties_latest: str) -> tuple[np.ndarray, np.ndarray]:
    """[rows] the user of each row, and the order by user and then time."""
    user, rows = pd.factorize(frame["user"])[0], np.arange(len(frame))
    later = rows if ties_latest == "last" else -rows
    return user, np.lexsort((later, frame["time"].to_numpy(), user))


def _tied_users(user: np.ndarray, time: np.ndarray, part: np.ndarray) -> int:
    """Users for whom equal times lie on both sides of a cut, so that a rule decides the split."""
    cut = (part[1:] != part[:-1]) & (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    return len(np.unique(user[1:][cut]))


def _distinct(
    user: np.ndarray, item: np.ndarray, num_clients: int, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [N+1] and items [nnz]: the sorted distinct items of each client, in CSR form."""
    keys = np.sort(user * num_items + item)
    client, items = np.divmod(keys[np.diff(keys, prepend=-1) > 0], num_items)
    return _offsets(np.bincount(client, minlength=num_clients)), items


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def _frozen(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values

"""Histories of clients: those of a federation, and in plain loops those that a split must find."""

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions


def histories(federation: Federation) -> list[list]:
    """Each client's items, oldest first, as the file calls them."""
    return [
        federation.item_ids[
            [*federation.train_items(u), federation.val_item[u], federation.test_item[u]]
        ].tolist()
        for u in range(federation.num_clients)
    ]


def plain_histories(interactions: Interactions, rules: Protocol) -> dict:
    """Items of each client, oldest first, by its label in the file.

    Among equal times the first row of the file is the latest of a history; of repeated rows at
    equal times it is the one that stays.
    """
    columns = (interactions.frame[name].tolist() for name in ("user", "item", "rating", "time"))
    rows = [
        (time, number, user, item)
        for number, (user, item, rating, time) in enumerate(zip(*columns, strict=True))
        if rating > 0
    ]
    if rules.repeats == "collapse":
        first = {}
        for row in sorted(rows, key=lambda row: row[:2]):
            first.setdefault(row[2:], row)
        rows = list(first.values())
    histories = {}
    for _, _, user, item in sorted(rows, key=lambda row: (row[0], -row[1])):
        histories.setdefault(user, []).append(item)
    least = rules.min_interactions
    return {user: items for user, items in histories.items() if len(items) >= least}

"""What every method keeps in memory and sends, against numbers by hand from the shapes."""

import jax
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.config.registry import METHODS
from fedem_jax.models.names import LOSSES
from fedem_jax.runs.simulation import Simulation

CLIENTS, ITEMS, DIM, AGGREGATED = 7, 40, 4, 4
"""Sizes of the laboratory; 6 of its clients take part in a round."""
POSITIVES, ROWS = 24, 40
"""Of the client with the most: with 2 negatives of each its samples may touch all items."""
TABLE, VECTORS, SCORERS = ITEMS * DIM, CLIENTS * DIM, CLIENTS * (DIM + 1)
"""Numbers of an item table, of a vector of each client, and of a linear score function of each."""
NETWORK = (8 * 16 + 16) + (16 * 8 + 8) + (8 + 1)
"""Numbers of FedEM's adapter, and of FedNCF's network, both on pairs of width 2 x 4."""
DEEP = (8 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8) + (8 + 1)
"""Numbers of GPFedRec's network."""
BITS = CLIENTS * (ITEMS / 8) / 4
"""Numbers of 4 bytes that hold a bit for each item of each client."""
HELD = {
    "fedem": (VECTORS + CLIENTS * (TABLE + NETWORK + 1), AGGREGATED * TABLE),
    "local-only": (VECTORS + CLIENTS * TABLE, 0),
    "popularity": (0, ITEMS),
    "item-knn": (BITS, ITEMS**2 + 1),
    "ease": (BITS, ITEMS**2 + 1),
    "central-mf": (VECTORS, TABLE + 2 * (VECTORS + TABLE) + 1),
    "fedmf": (VECTORS, 2 * TABLE),
    "fcf": (VECTORS, 3 * TABLE + 1),
    "fedncf": (VECTORS, 2 * TABLE + NETWORK),
    "pfedrec": (SCORERS + CLIENTS * (2 + ROWS * (1 + DIM)), 2 * TABLE),
    "gpfedrec": (VECTORS + CLIENTS * (DEEP + 2 * TABLE), TABLE),
    "fedrap": (SCORERS + CLIENTS * TABLE, TABLE + 1),
    "fedca": (VECTORS + CLIENTS * (TABLE + 4 * DIM + 1), AGGREGATED * TABLE),
    "cofedrec": (SCORERS + CLIENTS * TABLE, ITEMS),
}
"""Numbers that the clients keep, and the server: vectors or score functions, item tables, networks,
slots; the table before the last round, moments of Adam, counts, clusters of the items; weights
between items and whether they are computed."""
TRAIN = (0, 5 * ROWS * DIM + 4 * ROWS + ITEMS)
"""Rows, both moments, gradient and update; samples; places of the items."""
EVALUATE = (0, TABLE + 8 * ITEMS)
MERGED = (0, 3 * TABLE + 8 * ITEMS)
"""With own table, served table and what is between them."""
SUMMED = (TABLE, TRAIN[1])
"""With the sum of what the clients send."""
POOL = CLIENTS * POSITIVES * (1 + 3)
"""A user and 3 items for each positive; every client has the places of the longest one."""
SCRATCH = {
    "fedem": {
        "train": TRAIN, "evaluate": MERGED,
        "aggregate": (AGGREGATED * (TABLE + 2 * ITEMS) + 6 * AGGREGATED**2, 0),
        "merge": (0, TRAIN[1] - ROWS * DIM + 3 * TABLE + ITEMS * (16 + 8 + 3)),
    },
    "local-only": {"train": TRAIN, "evaluate": EVALUATE},
    "popularity": {
        "pool": (ITEMS * CLIENTS // 32, POSITIVES * 3 + ITEMS),
        "fit": (ITEMS * CLIENTS // 32, 3 * ITEMS), "evaluate": (0, 9 * ITEMS),
    },
    "item-knn": {
        "pool": (0, POSITIVES * 3 + ITEMS), "solve": (5 * ITEMS**2, ITEMS),
        "fit": (ITEMS**2, 3 * ITEMS), "evaluate": (ITEMS**2, 9 * ITEMS),
    },
    "ease": {
        "pool": (0, POSITIVES * 3 + ITEMS), "solve": (6 * ITEMS**2, ITEMS),
        "fit": (ITEMS**2, 3 * ITEMS), "evaluate": (ITEMS**2, 9 * ITEMS),
    },
    "central-mf": {
        "pool": (2 * POOL, 2 * POSITIVES * 4), "evaluate": (TABLE, 8 * ITEMS),
        "train": (POOL + 5 * (VECTORS + TABLE) + 16 * (4 * DIM + 16), 0),
    },
    "fedmf": {"train": SUMMED, "evaluate": EVALUATE},
    "fcf": {
        "exchange": (POSITIVES * (3 + 2 * DIM) + 2 * DIM * (DIM + 1) + ITEMS + 4 * TABLE, 0),
        "evaluate": (TABLE, 8 * ITEMS),
    },
    "fedncf": {
        "train": (TABLE, TRAIN[1] + 5 * NETWORK),
        "evaluate": (0, EVALUATE[1] + ITEMS * (2 * DIM + 16)),
    },
    "pfedrec": {"train": SUMMED, "evaluate": EVALUATE},
    "gpfedrec": {
        "train": (0, TRAIN[1] + 2 * TABLE - ROWS * DIM + 2 * 16 * (8 + 32 + 16 + 8)),
        "evaluate": (0, EVALUATE[1] + ITEMS * (8 + 32 + 16 + 8)),
        "aggregate": (3 * CLIENTS * (CLIENTS + TABLE) + CLIENTS * TABLE, 0),
    },
    "fedrap": {
        "train": (TABLE, TRAIN[1] + 2 * TABLE - ROWS * DIM),
        "evaluate": (0, 2 * TABLE + 8 * ITEMS),
    },
    "fedca": {
        "train": TRAIN, "evaluate": MERGED, "take up": (0, TRAIN[1] + 3 * TABLE),
        "aggregate": (AGGREGATED * (TABLE + 2 * ITEMS) + AGGREGATED**2 * (6 + 2 * 4 * 4), 0),
    },
    "cofedrec": {
        "train": TRAIN, "evaluate": EVALUATE, "contrast": (0, 8 * TABLE + ITEMS**2),
        "serve": (ITEMS * (6 * DIM + 2 * 3 + CLIENTS), 0),
    },
}  # fmt: skip
"""Numbers that each phase of a round keeps: once, and for each client side by side (FCF has one at
a time, as the settings say), as the method describes them."""


def test_memory_is_planned(method, lab):
    """Bytes, by hand from the shapes; all numbers have 4."""
    size, federation = lab.simulation.layout.classes[0], lab.simulation.federation
    assert (federation.num_clients, federation.num_items) == (CLIENTS, ITEMS)
    assert (size.positives, size.rows) == (POSITIVES, ROWS)
    memory, scratch = lab.simulation.memory, lab.simulation.algorithm.scratch
    assert (memory.clients, memory.server) == tuple(4 * numbers for numbers in HELD[method])
    # where each client's lists begin; the lists, with room for a longest one; what is held out
    flat = sum(len(values) for values in (federation.items, federation.barred))
    room = 2 * max(POSITIVES, int(np.diff(federation.barred_offsets).max()))
    assert memory.data == 4 * (2 * CLIENTS + flat + room + CLIENTS * (4 + 2 * (2 + 6)))
    for block in (1, 3):
        planned = {phase: once + block * each for phase, (once, each) in SCRATCH[method].items()}
        assert scratch(block) == planned
    assert memory.scratch == {phase: 4 * sum(both) for phase, both in SCRATCH[method].items()}
    largest = max(sum(both) for both in SCRATCH[method].values())
    assert memory.total == memory.data + 4 * (sum(HELD[method]) + largest)


@pytest.mark.parametrize(("loss", "at_once"), [("softmax", 0), ("bpr", 64), ("mine", 16)])
def test_pairs_of_samples_are_planned_with(monkeypatch, loss, at_once):
    """Twice so many by 16 numbers for each client side by side; a loss of others may have all."""
    monkeypatch.setitem(LOSSES, "mine", lambda logit, label, weight: logit.sum())
    plain, other = (
        Simulation(config_of("fedmf", **by), small_federation()).algorithm.scratch(3)
        for by in ({}, {"loss": loss})
    )
    assert other["train"] - plain["train"] == 3 * 2 * 16 * at_once


SENT = {
    "fedem": ((1, 4), (1, 0)),
    "local-only": ((0, 0), (0, 0)),
    "popularity": ((0, 0), (0, 0)),
    "item-knn": ((0, 0), (0, 0)),
    "ease": ((0, 0), (0, 0)),
    "central-mf": ((0, 0), (0, 0)),
    "fedmf": ((1, 4), (1, 0)),
    "fcf": ((1, 0), (1, 0)),
    "fedncf": ((1, 4 + 4 * NETWORK), (1, 4 * NETWORK)),
    "pfedrec": ((1, 0), (1, 0)),
    "gpfedrec": ((1, 0), (2, 0)),
    "fedrap": ((1, 0), (1, 0)),
    "fedca": ((1, 4 + 4 * 4 * 4), (1, 0)),
    "cofedrec": ((1, 0), (1, 0)),
}
"""Item tables, and bytes beside them, that a client uploads and downloads (specification, section
1): tables and networks in float32, sample counts in 4 bytes, FedCA's 4 directions."""
TO_ALL = {"cofedrec": 4 * ITEMS}
"""Bytes that every client downloads, also one that did not train: the clusters of the items."""


def test_what_is_sent_is_what_the_specification_says(method, labs):
    simulation = labs(method).simulation
    table = 4 * simulation.federation.num_items * simulation.config.dim
    participants, aggregated = simulation.config.round_sizes(simulation.federation.num_clients)
    clients = aggregated if method in ("fedem", "fedca") else participants
    (up, up_beside), (down, down_beside) = SENT[method]
    to_all = simulation.federation.num_clients * TO_ALL.get(method, 0)
    assert simulation.algorithm.traffic.up == clients * (up * table + up_beside)
    assert simulation.algorithm.traffic.down == clients * (down * table + down_beside) + to_all


CROSSING = {
    # table 40 x 4 x 2 = 320 bytes; 4 of 6 clients are aggregated, each with a count of 4 bytes
    "fedem": (4 * (320 + 4), 4 * 320),
    "local-only": (0, 0),
    "popularity": (0, 0),
    "item-knn": (0, 0),
    "ease": (0, 0),
    "central-mf": (0, 0),
    "fedmf": (6 * (320 + 4), 6 * 320),
    # gradients stay float32: 40 x 4 x 4 = 640
    "fcf": (6 * 640, 6 * 320),
    # so does the network: (8 x 16 + 16) + (16 x 8 + 8) + (8 + 1) = 289 numbers, 1156 bytes
    "fedncf": (6 * (320 + 1156 + 4), 6 * (320 + 1156)),
    "pfedrec": (6 * 320, 6 * 320),
    # and so do the 4 directions of 4 numbers, 64 bytes
    "fedca": (4 * (320 + 64 + 4), 4 * 320),
    # the clusters of 40 items, 160 bytes, go to all 7 clients
    "cofedrec": (6 * 320, 6 * 320 + 7 * 160),
    # all 7 take part; own and common table go down
    "gpfedrec": (7 * 320, 7 * 2 * 320),
    "fedrap": (6 * 320, 6 * 320),
}
"""Bytes up and down of a round with tables in bfloat16: 7 clients, 6 of them train, 40 items."""


def traffic_of(name, **changes):
    federation = small_federation()
    assert (federation.num_clients, federation.num_items) == (7, 40)
    return Simulation(config_of(name, **changes), federation, jax.devices()[:1]).algorithm.traffic


@pytest.mark.parametrize("name", METHODS)
def test_tables_in_half_the_bytes_cost_half_to_send_and_nothing_else_does(name):
    assert traffic_of(name, table_dtype="bfloat16") == CROSSING[name]


def test_clusters_of_items_are_sent_to_all_clients():
    assert traffic_of("cofedrec") == (6 * 640, 6 * 640 + 7 * 160)
    # 3 of 7 train, and still all are told
    assert traffic_of("cofedrec", client_fraction=0.5) == (3 * 640, 3 * 640 + 7 * 160)


def test_who_never_merges_downloads_nothing():
    assert traffic_of("fedem", merging="none") == (4 * (640 + 4), 0)

"""A run with made-up numbers, for what shows and keeps runs: nothing is trained."""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from fedem_jax.config.fedem import FedEM
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.exposure import exposure
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.evaluation.ranking import Ranks
from fedem_jax.evaluation.records import PARTS
from fedem_jax.evaluation.summary import best_round, per_client, summarise_run
from fedem_jax.runs.reading import Run

CLIENTS, ITEMS, CANDIDATES = 8, 120, 99


def federation(config: FedEM | None = None) -> Federation:
    """Eight clients with 1, 1, 2, 2, 3, 4, 5, 6 training positives among 120 items."""
    config = config or FedEM()
    sizes = np.array([1, 1, 2, 2, 3, 4, 5, 6])
    items = np.concatenate([np.arange(size) for size in sizes])
    draw = np.random.default_rng(0)
    candidates = np.stack([draw.permutation(np.arange(10, ITEMS))[:CANDIDATES] for _ in sizes])
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
    return Federation(
        name=config.dataset,
        protocol=config.rules(),
        num_items=ITEMS,
        offsets=offsets,
        items=items.astype(np.int32),
        barred_offsets=offsets,
        barred=items.astype(np.int32),
        val_offsets=np.arange(CLIENTS + 1, dtype=np.int32),
        val_item=np.full(CLIENTS, 8, np.int32),
        test_offsets=np.arange(CLIENTS + 1, dtype=np.int32),
        test_item=np.full(CLIENTS, 9, np.int32),
        val_candidates=candidates.astype(np.int32),
        test_candidates=candidates[:, ::-1].astype(np.int32),
        cohort=np.zeros(CLIENTS, np.int32),
        user_ids=np.array([f"u{number}" for number in range(CLIENTS)], object),
        item_ids=np.arange(ITEMS),
        seed=config.seed,
        fingerprint="0123456789abcdef",
        cleaning={"rows_read": 30, "rows_dropped": 6, "users": CLIENTS},
    )


def ranks(number: int, seed: int = 0) -> Ranks:
    """After round `number`: the later, the better."""
    draw = np.random.default_rng([number, seed])
    sampled = np.ceil(draw.integers(1, CANDIDATES + 2, (2, CLIENTS)) / number)
    full = np.ceil(draw.integers(1, ITEMS - 10, (2, CLIENTS)) / number)
    return Ranks(
        val=sampled[0],
        test=sampled[1],
        val_full=full[0],
        test_full=full[1],
        listed=jnp.asarray(draw.integers(0, ITEMS, (CLIENTS, 10))),
        finite=jnp.ones(CLIENTS, bool),
    )


def made_up(config: FedEM) -> tuple[Run, pd.DataFrame]:
    """A run as `fedem_jax.runs.train.run` leaves it, and the ranks of its clients."""
    data, k, records, best = federation(config), config.top_k, [], ranks(1)
    for number in range(1, config.rounds + 1):
        now = ranks(number, config.seed)
        values = {part: summarise(HeldOutRanks.of_one(getattr(now, part)), k) for part in PARTS}
        costs = {"bytes_up": 10, "bytes_down": 20_000, "seconds": 0.1, "epochs": 3.0}
        covered = exposure(np.asarray(now.listed), data) | {"loss": 1 / number}
        rules = {"protocol": data.protocol.name, "fingerprint": data.fingerprint}
        records.append({"round": number} | values | costs | covered | rules)
        if best_round(records, k) is records[-1]:
            best = now
    clients = per_client(data, best)
    summary = summarise_run(config, data, records, clients) | {
        "compile_seconds": 1.5,
        "seconds_per_round": 0.02,
        "resumed": [],
        "device": "cpu x 2",
        "versions": {"jax": "1.2.3"},
    }
    return Run(config, records, summary), clients

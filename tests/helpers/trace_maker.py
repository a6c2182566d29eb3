"""Traces in the format of the recorded ones, of runs of the NumPy twin with any settings.

The twin plays the part of another program: it filters, splits, draws, trains, aggregates and
evaluates on its own, client by client, and writes down every array that `golden_check` reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import twin

Trace = dict[str, np.ndarray]

RELEASED = {
    "global_round": 2, "seed": 0, "latent_dim": 4, "local_epoch": 3, "batch_size": 64,
    "num_negative": 2, "lr_embedding": 0.1, "lr_adapter": 0.1, "threshold": 1e-4,
    "agg_mode": "both", "sim_mode": "l2", "alpha": 0.9, "adapter": [8, 6, 5, 1],
    "clients_sample_ratio": 1.0, "agg_clients_ratio": 0.5, "top_k": 10,
}  # fmt: skip
"""Settings under the released program's names."""
NUM_CANDIDATES = 99


def make_trace(
    sizes: tuple[int, ...] = (12, 40, 14, 10, 28, 11, 20, 17),
    num_items: int = 150,
    *,
    merging: str | float = "per-batch",
    bce: str = "probability",
    dtype: Any = np.float32,
    user: Sequence[float] = (),
    random_state: int = 0,
    **settings,
) -> Trace:
    """Run the twin and record it.

    Args:
        sizes: rated interactions of each client, held-out ones included.
        num_items: items in the file; each of them is rated if the sizes add up to as many.
        merging: "per-batch", "once" or a constant rho; 0 stands for no merging at all.
        user: where all user vectors start; empty: somewhere.
        settings: changes of `RELEASED`.
    """
    settings = RELEASED | settings
    settings["adapter"] = [2 * settings["latent_dim"], *settings["adapter"][1:]]
    rng = np.random.default_rng(random_state)
    rows = _file(rng, sizes, num_items)
    histories, num_items = _histories(rows)
    unseen = [np.setdiff1d(np.arange(num_items), history) for history in histories]
    candidates = [rng.choice(pool, NUM_CANDIDATES, replace=False) for pool in unseen]
    trace = {
        "config_json": np.array(json.dumps(settings)),
        "raw_ratings": rows,
        "train_count": np.array([len(history) - 2 for history in histories]),
        "train_items": _padded([history[:-2] for history in histories]),
        "val_item": np.array([history[-2] for history in histories]),
        "test_item": np.array([history[-1] for history in histories]),
        "eval_negatives": np.array(candidates),
    }
    run = _Run(settings, trace, unseen, num_items, merging, bce, dtype, user, rng)
    rounds = [run.round() for _ in range(settings["global_round"])]
    return trace | run.start | {name: np.array([r[name] for r in rounds]) for name in rounds[0]}


def _file(rng: np.random.Generator, sizes: tuple[int, ...], num_items: int) -> np.ndarray:
    """Rows (user, item, rating, time): with unrated rows, a repeated one, a user with too few."""
    sizes = (*sizes, 5)
    items = np.split(np.resize(rng.permutation(num_items), sum(sizes)), np.cumsum(sizes)[:-1])
    pairs = [(user, item) for user, history in enumerate(items) for item in history]
    pairs.append(pairs[0])
    ratings = [*rng.integers(1, 6, len(pairs)), 0, 0, 0]
    pairs += [(0, 0), (1, num_items), (len(sizes), 0)]
    times = rng.permutation(len(pairs))
    rows = [
        (7 * user + 3, 2 * item + 1, *at)
        for (user, item), *at in zip(pairs, ratings, times, strict=True)
    ]
    return rng.permutation(np.array(rows, np.int64))


def _histories(rows: np.ndarray) -> tuple[list[list[int]], int]:
    """Items of each client in order of time, and their number, after the released filter."""
    rated = [row for row in rows.tolist() if row[2] > 0]
    count = Counter(row[0] for row in rated)
    kept = [row for row in rated if count[row[0]] >= 10]
    user_of = {user: u for u, user in enumerate(dict.fromkeys(row[0] for row in kept))}
    item_of = {item: i for i, item in enumerate(dict.fromkeys(row[1] for row in kept))}
    histories: list[list[int]] = [[] for _ in user_of]
    for user, item, _, _ in sorted(kept, key=lambda row: row[3]):
        histories[user_of[user]].append(item_of[item])
    return histories, len(item_of)


def _padded(lists, length: int = 0) -> np.ndarray:
    """Lists as rows of one array, filled up with -1."""
    length = max(length, *map(len, lists))
    return np.array([[*values, *[-1] * (length - len(values))] for values in lists])


class _Run:
    """The federation between two rounds."""

    def __init__(self, settings, trace, unseen, num_items, merging, bce, dtype, user, rng):
        self.settings, self.trace, self.unseen = settings, trace, unseen
        self.merging, self.bce, self.rng = merging, bce, rng
        self.clients, d = len(unseen), settings["latent_dim"]
        table, somewhere = rng.normal(size=(num_items, d)), rng.normal(size=d)
        adapter = [
            tuple(rng.uniform(-1, 1, shape) / fan_in**0.5 for shape in ((fan_in, out), out))
            for fan_in, out in pairwise(settings["adapter"])
        ]
        # all programs start from the same float32 numbers
        table, user = (np.array(x, np.float32).astype(dtype) for x in (table, user or somewhere))
        adapter = [tuple(x.astype(np.float32).astype(dtype) for x in layer) for layer in adapter]
        self.users, self.tables = [user] * self.clients, [table] * self.clients
        self.adapters, self.served, self.dtype = [adapter] * self.clients, {}, dtype
        self.start = {"item_table_init": table, "user_embedding_init": user[None]}
        for layer, (kernel, bias) in enumerate(adapter):
            self.start |= {f"adapter_w{layer}_init": kernel.T, f"adapter_b{layer}_init": bias}

    def round(self) -> dict[str, Any]:
        """One communication round and all that the trace has to say about it."""
        settings, rng = self.settings, self.rng
        chosen = rng.permutation(self.clients)
        chosen = chosen[: int(self.clients * settings["clients_sample_ratio"])]
        samples = [self._samples(u) if u in chosen else ([], []) for u in range(self.clients)]
        counts = np.array([len(items) for items, _ in samples])
        longest = (1 + settings["num_negative"]) * int(self.trace["train_count"].max())
        orders = [
            [rng.permutation(count) for _ in range(settings["local_epoch"])] for count in counts
        ]
        told: dict[str, Any] = {
            "participants": chosen,
            "sample_count": counts,
            "sample_items": _padded([items for items, _ in samples], longest),
            "sample_labels": _padded([labels for _, labels in samples], longest),
            "visit_order": np.array([_padded(of_client, longest) for of_client in orders]),
            "epochs_run": np.zeros(self.clients, int),
            "client_loss": np.full(self.clients, -1.0),
        }
        merges = [u in self.served and u in chosen for u in range(self.clients)]
        told["had_server_model"] = np.array(merges)
        rho = np.full((self.clients, len(self.tables[0])), -1.0, self.dtype)
        start = list(self.tables)
        for u in np.flatnonzero(merges):
            if self.merging != "once":
                start[u], rho[u] = self._merged(u)
        told |= {"merge_rho": rho} | self._state("start", start)
        for u in chosen:
            plain = not merges[u] or not isinstance(self.merging, str)
            result = twin.local_train(
                self.users[u], start[u], None if plain else self.served[u], self.adapters[u],
                *map(np.array, samples[u]), np.array(orders[u]),
                merging="per-batch" if plain else self.merging, bce=self.bce, dtype=self.dtype,
                **{key: settings[key] for key in
                   ("batch_size", "lr_embedding", "lr_adapter", "threshold")},
            )  # fmt: skip
            self.users[u], self.tables[u], self.adapters[u] = result[:3]
            told["epochs_run"][u] = result.epochs
            told["visit_order"][u, result.epochs :] = -1
            told["client_loss"][u] = result.running_loss[result.epochs - 1]
        told |= self._state("end", self.tables)
        told["round_train_loss"] = told["client_loss"][chosen].mean()
        aggregated = rng.permutation(chosen)[: int(len(chosen) * settings["agg_clients_ratio"])]
        return told | self._serve(aggregated, counts[aggregated]) | self._evaluate()

    def _samples(self, u: int) -> tuple[list[int], list[int]]:
        """Each positive, followed by its negatives; and their labels."""
        items, num_negative = [], self.settings["num_negative"]
        positives = self.trace["train_items"][u, : self.trace["train_count"][u]]
        for positive in positives:
            items += [positive, *self.rng.choice(self.unseen[u], num_negative, replace=False)]
        return items, len(positives) * [1, *num_negative * [0]]

    def _merged(self, u: int) -> tuple[np.ndarray, np.ndarray]:
        """The table that a served client uses, and the share of the server's rows in it."""
        weigh = self.adapters[u] if isinstance(self.merging, str) else self.merging
        return twin.merge(self.tables[u], self.served[u], weigh)

    def _state(self, suffix: str, tables: list[np.ndarray]) -> Trace:
        """Parameters of all clients."""
        told = {f"item_table_{suffix}": np.array(tables)}
        told[f"user_embedding_{suffix}"] = np.array(self.users)
        for layer in range(len(self.adapters[0])):
            kernels, biases = zip(*(adapter[layer] for adapter in self.adapters), strict=True)
            told[f"adapter_w{layer}_{suffix}"] = np.array([kernel.T for kernel in kernels])
            told[f"adapter_b{layer}_{suffix}"] = np.array(biases)
        return told

    def _serve(self, chosen: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
        """The server's step; the direction of each principal axis is left to chance."""
        kind, tables = self.settings["agg_mode"], np.array([self.tables[u] for u in chosen])
        told: dict[str, Any] = {"agg_participants": chosen}
        alike = None
        if kind != "avg":
            signs = self.rng.choice([-1, 1], len(chosen)).astype(self.dtype)
            scores = [s * twin.principal_scores(x) for s, x in zip(signs, tables, strict=True)]
            alike = twin.similarity(np.array(scores), self.settings["sim_mode"])
            told |= {"pca_projection": np.array(scores), "similarity": alike}
        if kind != "sim":
            told |= {"agg_sample_count": counts, "agg_p": counts / counts.sum()}
        weights = twin.aggregation_weights(counts, alike, kind, self.settings["alpha"])
        served = twin.aggregate(weights.astype(self.dtype), tables)
        self.served = dict(zip(chosen, served, strict=True)) if self.merging != 0 else {}
        return told | {"agg_matrix": weights, "server_item_table": served}

    def _evaluate(self) -> dict[str, Any]:
        """Every client with the model it would use; ranked by float32 probabilities."""
        tables = [
            self._merged(u)[0] if u in self.served else table for u, table in enumerate(self.tables)
        ]
        asked = np.column_stack(
            [self.trace[name] for name in ("val_item", "test_item", "eval_negatives")]
        )
        logits = np.array(
            [q[items] @ p for q, items, p in zip(tables, asked, self.users, strict=True)],
            np.float32,
        )
        scores = twin.sigmoid(logits)
        told = {}
        for kind, values in (("logit", logits), ("score", scores)):
            told |= {f"val_{kind}": values[:, 0], f"test_{kind}": values[:, 1]}
            told[f"neg_{kind}"] = values[:, 2:]
        for column, part in enumerate(("val", "test")):
            ranks, k = twin.rank(scores[:, column], scores[:, 2:]), self.settings["top_k"]
            told[f"{part}_rank"] = ranks
            told[f"{part}_hr"] = twin.hit_rate(ranks, k).mean()
            told[f"{part}_ndcg"] = twin.ndcg(ranks, k).mean()
        return told

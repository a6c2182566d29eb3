"""`Result`: what a run returns, and what was read back of it; what it learned can be asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.values import whole
from fedem_jax.core.algorithm import State
from fedem_jax.core.layout import Layout
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import metric_title, summarise
from fedem_jax.evaluation.ranking import held_out_ranks
from fedem_jax.evaluation.records import PARTS, Metrics, Part, Record, Summary
from fedem_jax.evaluation.summary import per_client
from fedem_jax.higher import higher
from fedem_jax.runs.asking import Clients
from fedem_jax.runs.labels import clients_of, items_of
from fedem_jax.runs.names import PER_CLIENT
from fedem_jax.runs.newcomer import newcomer_scores
from fedem_jax.runs.reading import Run
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.states import States, Which


class Result:
    """A finished run. `fedem_jax.run` returns it, and `fedem_jax.open_run` reads it back.

    Methods that ask the model take `round`: "best" is the best validation round, which the headline
    reports; "last" is the last one. Users and items are named by the labels of the data.
    """

    def __init__(
        self,
        simulation: Simulation,
        records: list[Record],
        summary: Summary,
        states: States,
        path: Path | None = None,
        clients: pd.DataFrame | None = None,
    ):
        self.simulation = simulation
        self.records = records
        """One record per evaluated round."""
        self.summary = summary
        """Metrics at the best validation round (`headline`), best test value, settings."""
        self.states = states
        """`states["best"]` and `states["last"]`: parameters; client u is at `layout.place[u]`."""
        self.path = path
        """The run directory; None: the run was not written."""
        self._per_client, self._clients = clients, Clients(simulation)
        self._last_asked: tuple[Which, State] | None = None

    def __repr__(self) -> str:
        summary, k = self.summary, self.summary["top_k"]
        best, metric = summary["headline"], f"hr@{k}"
        values = f"{best['test'][metric]:.4f}, full {best['test_full'][metric]:.4f}"
        where = f", {self.path}" if self.path else ""
        return (
            f"<Result: {summary['method']} on {summary['dataset']}, {summary['protocol']}, seed "
            f"{summary['seed']}: test {metric_title(metric)} {values} at round {best['round']} of "
            f"{summary['rounds']}{where}>"
        )

    @property
    def config(self) -> Config:
        """All settings."""
        return self.simulation.config

    @property
    def federation(self) -> Federation:
        """The data."""
        return self.simulation.federation

    @property
    def layout(self) -> Layout:
        """Where the clients are in the arrays of a state."""
        return self.simulation.layout

    @property
    def state(self) -> State:
        """Parameters after the last round; client u is at `layout.place[u]`.

        Raises:
            UserError: it was not kept.
        """
        return self.states["last"]

    @property
    def curve(self) -> pd.DataFrame:
        """The records as a table: one row per evaluated round, columns such as `test hr@10`."""
        rows: list[dict[str, Any]] = [dict(record) for record in self.records]
        flat = pd.json_normalize(rows, sep=" ")
        return flat.set_index("round").drop(columns="rho", errors="ignore")

    @cached_property
    def per_client(self) -> pd.DataFrame:
        """Ranks of every client at the best validation round, from `evaluation.summary.per_client`:
        as they were found, as per_client.parquet has them, or else ranked again.

        Raises:
            UserError: they are not on disk, and neither is the state.
        """
        if self._per_client is not None:
            return self._per_client
        if self.path is not None and (self.path / PER_CLIENT).exists():
            return pd.read_parquet(self.path / PER_CLIENT)[["user", "history", *PARTS]]
        return per_client(self.federation, self.simulation.rank(self._state("best")))

    def recommend(
        self,
        users: Iterable[Any] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        round: Which = "best",
    ) -> pd.DataFrame:
        """The best items for users, as a table of `user`, `rank` (from 1), `item` and `score`.

        A score is a logit. Of equal scores the item with the lower number in the federation comes
        first. (Metrics count equal scores against the held-out item.)

        Args:
            users: their labels; None: all.
            k: length of each list; shorter where a user has fewer items left.
            exclude_seen: leave out what the client trains on, and its validation items: what it
                knew before its test items. So the lists are those that `test_full` judges.
            round: "best" or "last".

        Raises:
            UserError: a user is not in the data, `k` is no length, or the state was not kept.
        """
        k = min(whole("k", k, 1), self.federation.num_items)
        clients = clients_of(self.federation, users)
        if not len(clients):
            return _lists(self.federation, clients, np.zeros((0, k), int), np.zeros((0, k)))
        seen = _val_items(self.federation, clients)
        seen = seen if exclude_seen else seen[:, :0]
        items, scores = self._clients.top(self._state(round), clients, k, seen)
        return _lists(self.federation, clients, items, scores)

    def scores(self, users: Iterable[Any], round: Which = "best") -> pd.DataFrame:
        """Logits of all items for users: a row for each user, a column for each item, by labels.

        Args:
            users: their labels.
            round: "best" or "last".

        Raises:
            UserError: a user is not in the data, or the state was not kept.
        """
        clients = clients_of(self.federation, users)
        values = np.zeros((0, self.federation.num_items), np.float32)
        if len(clients):
            values = self._clients.scores(self._state(round), clients)
        index = pd.Index(self.federation.user_ids[clients], name="user")
        return pd.DataFrame(values, index, pd.Index(self.federation.item_ids, name="item"))

    def recommend_new(
        self,
        items: Iterable[Any],
        k: int = 10,
        exclude_seen: bool = True,
        round: Which = "best",
        rounds: int | None = None,
    ) -> pd.DataFrame:
        """The best items for a client that was not there, as a table of `rank`, `item`, `score`.

        The client trains its private part alone: the table of the server stays as it is, and the
        server learns nothing. Its negatives are drawn by the seed of the run.

        Args:
            items: labels of the items that it interacted with; repeats count once.
            k: length of the list.
            exclude_seen: leave `items` out.
            round: "best" or "last".
            rounds: rounds of local epochs; None: as many as the others had trained then.

        Raises:
            UserError: an item is not in the data, there is none, the method has no table for all
                clients, or the state was not kept.
        """
        k = min(whole("k", k, 1), self.federation.num_items)
        numbers = np.array(list(dict.fromkeys(items_of(self.federation, items).tolist())), int)
        if not len(numbers):
            raise UserError("items: is empty; give at least one item of the new client.")
        state = self._state(round)
        rounds = self.states.rounds[round] if rounds is None else whole("rounds", rounds, 1)
        scores = newcomer_scores(self.simulation, state, numbers, rounds)
        if exclude_seen:
            scores[numbers] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        best = best[scores[best] > -np.inf]
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(best) + 1),
                "item": self.federation.item_ids[best],
                "score": scores[best],
            }
        )

    def item_table(self, user: Any, round: Which = "best") -> pd.DataFrame:
        """The item table as the client of a user would use it now, [I D], a row for each item.

        What waits for the client is merged into it, as before its next round.

        Raises:
            UserError: the user is not in the data, the method has no item tables, or the state was
                not kept.
        """
        client = clients_of(self.federation, [user])
        (table,) = self._clients.tables(self._state(round), client)
        return pd.DataFrame(table, pd.Index(self.federation.item_ids, name="item"))

    def rho(self, user: Any, round: Which = "best") -> pd.Series:
        """How much of each aggregated row the client of a user takes up, in [0, 1], by item; 0
        where no table waits for it.

        Raises:
            UserError: the user is not in the data, the method merges nothing, or the state was not
                kept.
        """
        client = clients_of(self.federation, [user])
        (rho,) = self._clients.rho(self._state(round), client)
        return pd.Series(rho, pd.Index(self.federation.item_ids, name="item"), name="rho")

    def evaluate(self, k: int | None = None, round: Which = "best") -> dict[Part, Metrics]:
        """Metrics of all parts (`val`, `test`, `val_full`, `test_full`), ranked again.

        Args:
            k: a K beside the usual ones; None: that of the settings.
            round: "best" or "last".

        Raises:
            UserError: `k` is no cutoff, or the state was not kept.
        """
        k = self.config.top_k if k is None else whole("k", k, 1)
        ranks = self.simulation.rank(self._state(round))
        return {
            part: summarise(held_out_ranks(self.federation, part, getattr(ranks, part)), k)
            for part in PARTS
        }

    def plot(self, path: str | Path) -> Path:
        """Draw the learning curves into a file, PNG or any format that Matplotlib knows."""
        method, dataset = self.summary["method"], self.summary["dataset"]
        run = Run(self.config, self.records, self.summary)
        higher("report.curves").learning_curves(
            [(method, run)], path, title=f"{method} on {dataset}"
        )
        return Path(path)

    def _state(self, which: Which) -> State:
        """A state on the devices; that of the last question stays there."""
        if self._last_asked is None or self._last_asked[0] != which:
            self._last_asked = None  # its room is free for the other one
            self._last_asked = (which, self.states[which])
        return self._last_asked[1]


def _val_items(federation: Federation, clients: np.ndarray) -> np.ndarray:
    """[n, most] validation items of clients, padded with the number of items."""
    starts, sizes = federation.val_offsets[clients], np.diff(federation.val_offsets)[clients]
    place = np.arange(max(1, sizes.max()))
    found = federation.val_item[np.minimum(starts[:, None] + place, len(federation.val_item) - 1)]
    return np.where(place < sizes[:, None], found, federation.num_items)


def _lists(
    federation: Federation, clients: np.ndarray, items: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """Lists as a table, without the places that no item fills."""
    client = np.repeat(clients, items.shape[1])
    rank = np.tile(np.arange(1, items.shape[1] + 1), len(clients))
    table = pd.DataFrame(
        {
            "user": federation.user_ids[client],
            "rank": rank,
            "item": federation.item_ids[items.ravel()],
            "score": scores.ravel(),
        }
    )
    return table[table["score"] > -np.inf].reset_index(drop=True)

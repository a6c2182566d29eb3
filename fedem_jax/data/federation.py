"""`Federation`: what all methods train and evaluate on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.columns_read import ColumnsRead


@dataclass(frozen=True, eq=False)
class Federation:
    """N clients (one user each) over I items, split by a protocol. Immutable; NumPy arrays.

    Ragged lists are stored row after row (CSR): the entries of client u stand at
    `values[offsets[u] : offsets[u + 1]]`.
    """

    name: str
    """Name of the data set, or of the user's file with its suffix."""
    protocol: Protocol
    """The rules by which this federation was split."""
    num_items: int
    """I."""
    offsets: Int32[np.ndarray, " offsets"]
    """[N + 1] where each client's training positives start in `items`."""
    items: Int32[np.ndarray, " nnz"]
    """Training positives, oldest first for each client; distinct unless repeats are kept."""
    barred_offsets: Int32[np.ndarray, " offsets"]
    """[N + 1] where each client's barred items start in `barred`."""
    barred: Int32[np.ndarray, " barred"]
    """Items never drawn as training negatives: sorted and distinct for each client."""
    val_offsets: Int32[np.ndarray, " offsets"]
    """[N + 1] where each client's validation items start in `val_item`."""
    val_item: Int32[np.ndarray, " V"]
    """Validation items of the clients; with leave-one-out one each, the second latest."""
    test_offsets: Int32[np.ndarray, " offsets"]
    """[N + 1] where each client's test items start in `test_item`."""
    test_item: Int32[np.ndarray, " T"]
    """Test items of the clients; with leave-one-out one each, the latest."""
    val_candidates: Int32[np.ndarray, "V K"]
    """Sampled items that its client never touched, for each validation item to be ranked among."""
    test_candidates: Int32[np.ndarray, "T K"]
    """The same kind of items, for each test item."""
    cohort: Int32[np.ndarray, " N"]
    """Number of each client's declared cohort; all 0 if none is declared."""
    user_ids: np.ndarray
    """[N] label of each client in the file."""
    item_ids: np.ndarray
    """[I] label of each item in the file."""
    seed: int
    """Seed of the candidate draw."""
    fingerprint: str
    """First 16 hexadecimal digits of a SHA-256 over the split, candidates and protocol."""
    cleaning: dict[str, int]
    """Rows, users and items that each step of the preparation read, dropped or kept."""
    columns_read: ColumnsRead | None = None
    """What became user, item, rating and time; not part of the fingerprint."""

    @property
    def num_clients(self) -> int:
        """N."""
        return len(self.user_ids)

    @property
    def one_each(self) -> bool:
        """Whether every client has exactly one validation and one test item."""
        ones = np.arange(self.num_clients + 1)
        return all(np.array_equal(ends, ones) for ends in (self.val_offsets, self.test_offsets))

    @property
    def num_interactions(self) -> int:
        """Training, validation and test interactions of all clients."""
        return len(self.items) + len(self.val_item) + len(self.test_item)

    @cached_property
    def clients_with(self) -> Int[np.ndarray, " I"]:
        """Number of clients that have each item in their training set; repeats count once."""
        client = np.repeat(np.arange(self.num_clients), np.diff(self.offsets))
        pairs = np.unique(client * self.num_items + self.items)
        return np.bincount(pairs % self.num_items, minlength=self.num_items)

    def held_out(self, part: Literal["val", "test"], client: int) -> np.ndarray:
        """[m_u] validation or test items of one client, oldest first."""
        offsets = self.val_offsets if part == "val" else self.test_offsets
        items = self.val_item if part == "val" else self.test_item
        return items[offsets[client] : offsets[client + 1]]

    def train_items(self, client: int) -> np.ndarray:
        """[n_u] training positives of one client, oldest first."""
        return self.items[self.offsets[client] : self.offsets[client + 1]]

    def barred_items(self, client: int) -> np.ndarray:
        """Sorted items that are never drawn as this client's training negatives."""
        return self.barred[self.barred_offsets[client] : self.barred_offsets[client + 1]]

"""`Federation`: what all methods train and evaluate on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.interactions import ColumnsRead


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
    val_item: Int32[np.ndarray, " N"]
    """Second latest interaction of each client."""
    test_item: Int32[np.ndarray, " N"]
    """Latest interaction of each client."""
    val_candidates: Int32[np.ndarray, "N K"]
    """Sampled items that the client never touched; the validation item is ranked against them."""
    test_candidates: Int32[np.ndarray, "N K"]
    """The same kind of items, for the test item."""
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
        return len(self.val_item)

    def train_items(self, client: int) -> np.ndarray:
        """[n_u] training positives of one client, oldest first."""
        return self.items[self.offsets[client] : self.offsets[client + 1]]

    def barred_items(self, client: int) -> np.ndarray:
        """Sorted items that are never drawn as this client's training negatives."""
        return self.barred[self.barred_offsets[client] : self.barred_offsets[client + 1]]

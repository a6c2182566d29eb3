"""A checkpoint with made-up numbers."""

import numpy as np

from fedem_jax.storage.checkpoint import Saved


def saved(number, validation=0.5):
    """A checkpoint with every kind of array that a state has."""
    rng = np.random.default_rng(number)
    arrays = {
        "state": {
            "clients-items": rng.normal(size=(7, 5, 2)).astype(np.float32),
            "clients-slot": rng.integers(0, 9, 7).astype(np.int32),
            "server-bits": rng.integers(0, 2**16, (5, 2)).astype(np.uint16),
            "server-number": np.array(number, np.int32),
        },
        "best": {"finite": np.ones(7, bool), "val": np.full(7, np.nan)},
        "place": np.arange(7),
    }
    return Saved({"round": number, "validation": validation}, arrays)

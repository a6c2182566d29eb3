"""The fingerprint of a federation: what tells two splits apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from fedem_jax.config.protocol import Protocol, switches_of

ARRAYS = (
    "offsets", "items", "barred_offsets", "barred",
    "val_item", "test_item", "val_candidates", "test_candidates",
)  # fmt: skip
"""Fields of a federation that every fingerprint holds."""
ENDS = ("val_offsets", "test_offsets")
"""Those that it holds besides, unless each client has one validation and one test item."""


def fingerprint(fields: Mapping[str, np.ndarray], protocol: Protocol) -> str:
    """Hash of what a method can see: the arrays and the switches of the protocol, not its name.

    Args:
        fields: arrays of a federation, by name.
        protocol: the rules of the split.

    Returns:
        16 hexadecimal digits.
    """
    names = ARRAYS if protocol.split == "leave-one-out" else ARRAYS + ENDS
    if fields["cohort"].any():
        names += ("cohort",)
    digest = hashlib.sha256(json.dumps(switches_of(protocol), sort_keys=True).encode())
    for name in names:
        digest.update(f"{name}{fields[name].shape}".encode())
        digest.update(np.ascontiguousarray(fields[name], "<i4").tobytes())
    return digest.hexdigest()[:16]

"""Federated methods by name. Adding one: a file like `fedem.py`, and a line here."""

from __future__ import annotations

from fedem_jax.methods.fedem import fedem
from fedem_jax.methods.local_only import local_only

METHODS = {"fedem": fedem, "local-only": local_only}

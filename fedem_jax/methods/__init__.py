"""Federated methods by name. Adding one: see CONTRIBUTING.md."""

from __future__ import annotations

from collections.abc import Callable

from fedem_jax.core.algorithm import Algorithm
from fedem_jax.methods.central_mf import central_mf
from fedem_jax.methods.cofedrec import cofedrec
from fedem_jax.methods.fcf import fcf
from fedem_jax.methods.fedca import fedca
from fedem_jax.methods.fedem import fedem
from fedem_jax.methods.fedmf import fedmf
from fedem_jax.methods.fedncf import fedncf
from fedem_jax.methods.fedrap import fedrap
from fedem_jax.methods.gpfedrec import gpfedrec
from fedem_jax.methods.local_only import local_only
from fedem_jax.methods.pfedrec import pfedrec

METHODS: dict[str, Callable[..., Algorithm]] = {
    "fedem": fedem,
    "local-only": local_only,
    "central-mf": central_mf,
    "fedmf": fedmf,
    "fcf": fcf,
    "fedncf": fedncf,
    "pfedrec": pfedrec,
    "fedca": fedca,
    "cofedrec": cofedrec,
    "gpfedrec": gpfedrec,
    "fedrap": fedrap,
}
"""`(settings, num_items, layout, samples) -> algorithm`, by the name of the method."""

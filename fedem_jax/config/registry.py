"""The registry of methods: what each is called, its settings, and where its algorithm stands."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import (
    FCF,
    CentralMF,
    CoFedRec,
    FedCA,
    FedMF,
    FedNCF,
    FedRAP,
    GPFedRec,
    LocalOnly,
    PFedRec,
)
from fedem_jax.errors import UserError, nearest


class Method(NamedTuple):
    """A federated method."""

    settings: type[Config]
    """What an experiment with it may set."""
    algorithm: str | Callable[..., Any]
    """`(settings, layout) -> Algorithm`, or its name in `fedem_jax.methods`, `module:function`."""

    def load(self) -> Callable[..., Any]:
        """The function that binds the algorithm; its module is imported now, JAX with it."""
        if not isinstance(self.algorithm, str):
            return self.algorithm
        module, _, function = self.algorithm.partition(":")
        return getattr(importlib.import_module(f"fedem_jax.methods.{module}"), function)


METHODS: dict[str, Method] = {
    "fedem": Method(FedEM, "fedem:fedem"),
    "local-only": Method(LocalOnly, "local_only:local_only"),
    "central-mf": Method(CentralMF, "central_mf:central_mf"),
    "fedmf": Method(FedMF, "fedmf:fedmf"),
    "fcf": Method(FCF, "fcf:fcf"),
    "fedncf": Method(FedNCF, "fedncf:fedncf"),
    "pfedrec": Method(PFedRec, "pfedrec:pfedrec"),
    "gpfedrec": Method(GPFedRec, "gpfedrec:gpfedrec"),
    "fedrap": Method(FedRAP, "fedrap:fedrap"),
    "fedca": Method(FedCA, "fedca:fedca"),
    "cofedrec": Method(CoFedRec, "cofedrec:cofedrec"),
}
"""By name. Adding a method: see CONTRIBUTING.md."""


def settings_of(method: str) -> type[Config]:
    """The class that describes experiments with a method.

    Raises:
        UserError: there is no such method.
    """
    if method not in METHODS:
        raise UserError(f"method: '{method}' is unknown; {nearest(method, list(METHODS))}.")
    return METHODS[method].settings

"""The registry of methods: name, settings and algorithm of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.references import EASE, ItemKNN, Popularity
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
    """Class of its settings."""
    algorithm: str | Callable[..., Any]
    """A function `(settings, layout) -> Algorithm`, or `module:function` in `fedem_jax.methods`."""

    def load(self) -> Callable[..., Any]:
        """The function `(settings, layout) -> Algorithm`. This imports its module, and JAX."""
        if not isinstance(self.algorithm, str):
            return self.algorithm
        module, _, function = self.algorithm.partition(":")
        return getattr(importlib.import_module(f"fedem_jax.methods.{module}"), function)


METHODS: dict[str, Method] = {
    "fedem": Method(FedEM, "fedem:fedem"),
    "local-only": Method(LocalOnly, "local_only:local_only"),
    "popularity": Method(Popularity, "popularity:popularity"),
    "item-knn": Method(ItemKNN, "item_knn:item_knn"),
    "ease": Method(EASE, "ease:ease"),
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
"""Methods by name. CONTRIBUTING.md says how to add one."""


def settings_of(method: str) -> type[Config]:
    """The class of settings of a method.

    Raises:
        UserError: the method is unknown.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise UserError(
            f"method: '{method}' is unknown; {nearest(str(method)[:40], list(METHODS))}."
        )
    return METHODS[method].settings

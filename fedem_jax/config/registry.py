"""The registry of methods: name, settings and algorithm of each."""

from __future__ import annotations

import dataclasses
import importlib
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from fedem_jax.config.base import Config
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.plugins import NAME, load_installed, origin
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
"""Methods by name. CONTRIBUTING.md says how to add one; `register` adds one from elsewhere."""


def register(settings: type[Config], algorithm: Callable[..., Any]) -> None:
    """Make a method known by the name that its settings give, `settings.method`.

    It then works wherever a method is named: in `preset`, `run`, `compare`, `sweep`, `plan` and in
    the commands, which take `--plugin FILE`. A method of the same module and class is replaced, so
    that a cell of a notebook may be run again.

    Args:
        settings: a frozen dataclass, derived from `Config` or a class of `config.shared`.
        algorithm: a function `(settings, layout) -> Algorithm`, as in CONTRIBUTING.md.

    Raises:
        UserError: the settings are of another kind, or their name is no name or is taken.

    Examples:
        >>> from dataclasses import dataclass
        >>> from fedem_jax.config.settings import FedMF
        >>> from fedem_jax.methods.fedmf import fedmf
        >>> @dataclass(frozen=True)
        ... class Narrow(FedMF):
        ...     method: str = "narrow"
        ...     dim: int = 4
        >>> fj.register(Narrow, fedmf)
        >>> fj.preset("released", method="narrow").dim
        4
    """
    known = isinstance(settings, type) and issubclass(settings, Config)
    if not (known and dataclasses.is_dataclass(settings) and callable(algorithm)):
        raise UserError(
            "register: takes a dataclass derived from Config and a function (settings, layout) -> "
            "Algorithm; see the skeleton in CONTRIBUTING.md."
        )
    name = settings.method
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"register: '{name}' is no name of a method; give {settings.__name__} a field `method` "
            "with a default of small letters, digits and hyphens."
        )
    there = METHODS.get(name)
    if there and origin(there.settings) != origin(settings):
        raise UserError(f"register: '{name}' is the name of another method; give another one.")
    METHODS[name] = Method(settings, algorithm)


def settings_of(method: str) -> type[Config]:
    """The class of settings of a method.

    Raises:
        UserError: the method is unknown, or an installed package that offers methods is broken.
    """
    if isinstance(method, str) and method not in METHODS:
        load_installed()
    if not isinstance(method, str) or method not in METHODS:
        hint = nearest(str(method)[:40], list(METHODS))
        raise UserError(f"method: {reprlib.repr(method)} is unknown; {hint}.")
    return METHODS[method].settings

"""Losses and backbones from elsewhere, and the packages that offer them or methods."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, NamedTuple, get_args

from fedem_jax.config.values import with_ranges
from fedem_jax.errors import UserError, in_short, nearest
from fedem_jax.models.names import BACKBONES, LOSSES, Part

ENTRY_POINTS = "fedem_jax.methods"
"""Group of the entry points by which an installed package offers methods, losses and backbones.
Each names a module, or something in it, that registers them when it is imported."""
NAME = r"[a-z][a-z0-9-]*"
"""Names of what is registered: commands and folders use them."""


class Registered(NamedTuple):
    """The names that a setting accepts: those in a registry, which may grow."""

    what: str
    """`loss` or `backbone`."""

    @property
    def known(self) -> dict[str, Part]:
        """The registry."""
        return {"loss": LOSSES, "backbone": BACKBONES}[self.what]

    def check(self, field: str, value: str) -> None:
        """Refuse a name that is not in the registry.

        Raises:
            UserError: it is unknown; or an installed package that offers such parts is broken.
        """
        if value not in self.known:
            load_installed()
        if value not in self.known:
            raise UserError(
                f"{field}: {reprlib.repr(value)} is unknown; "
                f"{nearest(value[:40], list(self.known))}; register a {self.what} of your own "
                f"first, by fj.register_{self.what} or --plugin FILE."
            )


Loss = Annotated[str, Registered("loss")]
"""Name of a loss of local training."""
Backbone = Annotated[str, Registered("backbone")]
"""Name of a backbone."""


def register_loss(name: str, loss: Callable[..., Any]) -> None:
    """Make a loss of local training known, as a value of the setting `loss`.

    It then works with every method that trains by samples, in Python and in the commands, which
    take `--plugin FILE`. A loss of the same module and function name is replaced, so that a cell of
    a notebook may be run again.

    Args:
        name: small letters, digits and hyphens.
        loss: a pure function `(logit [B], label [B], weight [B]) -> mean loss` of a batch, in JAX.
            An entry is an item; its label is 1 or 0, and its weight the number of its samples in
            the batch. An entry of weight 0 is absent and must change nothing. Without a positive or
            without a negative the result must be finite, such as 0.

    Raises:
        UserError: the name is none or is taken, or the loss is no function.

    Examples:
        >>> import jax.numpy as jnp
        >>> def hinge(logit, label, weight):
        ...     lost = jnp.maximum(0, 1 - jnp.where(label > 0, logit, -logit))
        ...     return jnp.sum(weight * lost) / jnp.maximum(weight.sum(), 1)
        >>> fj.register_loss("hinge", hinge)
        >>> fj.preset(method="fedmf", loss="hinge").loss
        'hinge'
    """
    _register("loss", name, loss)


def register_backbone(name: str, backbone: Callable[..., Any]) -> None:
    """Make a backbone known, as a value of the setting `backbone` of FedEM.

    All its parameters are private, and trained with the item table, at the step `lr_embedding`. One
    of the same module and class is replaced, as in `register_loss`.

    Args:
        name: small letters, digits and hyphens.
        backbone: the class of a flax module with fields `dim`, D, and `scale`, the setting
            `init_scale`; or a function `dim -> module`. The module maps rows [M, D] of the item
            table to logits [M], each of its row alone. It has parameters and no other variables.

    Raises:
        UserError: the name is none or is taken, or the backbone is no class or function.

    Examples:
        >>> import flax.linen as nn
        >>> class Shifted(nn.Module):
        ...     dim: int
        ...     scale: float = 1.0
        ...     @nn.compact
        ...     def __call__(self, rows):
        ...         user = self.param("user", nn.initializers.normal(self.scale), (self.dim,))
        ...         return rows @ user + self.param("bias", nn.initializers.zeros, ())
        >>> fj.register_backbone("shifted", Shifted)
        >>> fj.preset(method="fedem", backbone="shifted").backbone
        'shifted'
    """
    _register("backbone", name, backbone)


def _register(what: str, name: str, part: Callable[..., Any]) -> None:
    known = Registered(what).known
    if not callable(part):
        raise UserError(
            f"register_{what}: {reprlib.repr(part)} cannot be called; see help(fj.register_{what})."
        )
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(
            f"register_{what}: {reprlib.repr(name)} is no name of a {what}; give small letters, "
            "digits and hyphens."
        )
    there = known.get(name)
    if there is not None and (isinstance(there, str) or origin(there) != origin(part)):
        raise UserError(f"register_{what}: '{name}' is the name of another {what}; give another.")
    known[name] = part


def is_shipped(config: Any) -> bool:
    """Whether all losses and backbones that settings name are those of the package."""
    return all(
        isinstance(registered.known[getattr(config, field)], str)
        for field, hint in with_ranges(type(config)).items()
        for registered in get_args(hint)
        if isinstance(registered, Registered)
    )


@cache
def load_installed() -> None:
    """Import what installed packages offer under `ENTRY_POINTS`, once.

    Raises:
        UserError: one of them cannot be imported; the sentence names it.
    """
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise UserError(
                f"plug-in '{point.name}' ({point.value}): cannot be imported ({in_short(error)}); "
                "repair that package or remove it."
            ) from error


def origin(part: Any) -> tuple[str, str]:
    """Module and name of a class or function."""
    return part.__module__, getattr(part, "__qualname__", type(part).__qualname__)

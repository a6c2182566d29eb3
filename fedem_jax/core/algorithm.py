"""What a method is: three pure functions, and the types that pass between them.

Letters, the same everywhere: `C` clients, `I` items, `D` latent, `E` local epochs, `S` samples of a
client in a round, `B` samples in a batch, `M` rows of a client's compact table, `K` candidates,
`A` clients aggregated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class State(NamedTuple):
    """All that one round hands to the next."""

    clients: Any
    """What the clients keep: every leaf has the client axis first, and may be sharded along it."""
    server: Any
    """What the server keeps: the same on every device."""


class Info(NamedTuple):
    """What a round reports and the next round does not need."""

    loss: Float[Array, " C"]
    """Mean training loss of each client over the round's samples; NaN for those that sat out."""
    epochs: Int[Array, " C"]
    """Local epochs run."""
    skipped: Bool[Array, " C"] | None = None
    """Whose training was undone, as it led to numbers that are not finite; these sat out. None: it
    is not looked for."""


class Traffic(NamedTuple):
    """Bytes that cross the wire in one round, over all clients."""

    up: int
    """What the server receives: the method's `Upload`."""
    down: int
    """What the clients receive: the method's `Download`, once for each client that is served."""


class Elastic(NamedTuple):
    """Elastic merging, for those who want to look at it."""

    learned: bool
    """Whether rho depends on anything but the settings."""
    served: Callable[[State], Bool[Array, " C"]]
    """`(state) -> mask` of the clients that wait to merge."""
    share: Callable[..., Float[Array, "B I"]]
    """`(state, clients [B], hyper) -> rho`: share of the aggregated row, item by item; 0 where
    nothing waits."""


def numbers_of(kind: Any, config: Any) -> Any:
    """The numbers of a configuration that a sweep may vary: the fields of `kind`, by name."""
    return kind(*(jnp.float32(getattr(config, name)) for name in kind._fields))


class Algorithm(NamedTuple):
    """A federated method, bound to a federation and to its sizes and switches."""

    init: Callable[..., State]
    """`(key) -> state`."""
    round: Callable[..., tuple[State, Info]]
    """`(draws, state, hyper) -> (state, info)`: one communication round with these draws."""
    score: Callable[..., Float[Array, "B I"]]
    """`(state, clients [B], hyper) -> logits of all items`, by the model each client would use."""
    num_items: int
    """I."""
    hyper: Any
    """The numbers of the configuration, as `round` and `score` take them."""
    traffic: Traffic
    scratch: Callable[[int], dict[str, int]]
    """`(block) -> numbers`, of 4 bytes, that each phase of a round needs on a device, beside the
    state, with so many clients side by side."""
    elastic: Elastic | None = None
    """How clients merge what they are served, if they do."""
    placed: Callable[[Any], Any] = lambda server: ()
    """`(server) -> arrays` of the server that have the client axis first, like those of the
    clients."""


def tree_at(tree: Any, index: Array) -> Any:
    """One client's part, or several clients', of arrays that have the client axis first."""
    return jax.tree.map(lambda leaf: leaf[index], tree)

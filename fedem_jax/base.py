"""What a method is: three pure functions, and the types that pass between them.

Letters, the same everywhere: `C` clients, `I` items, `D` latent, `E` local epochs, `S` samples of a
client in a round, `B` samples in a batch, `M` rows of a client's compact table, `K` candidates,
`A` clients aggregated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int


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


class Traffic(NamedTuple):
    """Bytes that cross the wire in one round, over all clients."""

    up: int
    """What the server receives: the method's `Upload`."""
    down: int
    """What the clients receive: the method's `Download`, once for each client that is served."""


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
    """`(block) -> bytes` that each phase of a round needs on a device, beside the state, with so
    many clients side by side."""

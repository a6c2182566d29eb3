"""What a method is: three pure functions, and the types that pass between them.

A method is written for one federation and its layout. Everything random comes from `Draws`; every
number that a sweep may vary comes from the method's `Hyper`.

Letters, the same everywhere: `C` clients (on the device, padded to a multiple of the devices),
`I` items, `D` latent, `E` local epochs, `S` samples of a client in a round, `B` samples in a batch
or clients in a block, `M` rows of a client's compact table, `K` candidates, `P` participants of a
round, `A` clients aggregated, `R` tables of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from fedem_jax.core.layout import Layout, SizeClass
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage


class State(NamedTuple):
    """All that one round hands to the next."""

    clients: Any
    """What the clients keep: every leaf has the client axis first, and may be sharded along it."""
    server: Any
    """What the server keeps: the same on every device, but for `core.layout.PerDevice`."""


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
    """Elastic merging, for the counts of rho and the bottleneck analysis."""

    learned: bool
    """Whether rho depends on anything but the settings."""
    waits: Callable[[State], Bool[Array, " C"]]
    """`(state) -> mask` of the clients that an aggregated table waits for. It may not look at the
    tables of clients, which may be on the host."""
    rho: Callable[..., Float[Array, "B I"]]
    """`(state, places [B], hyper) -> rho`: how much of each aggregated row the client takes up; 0
    where no table waits."""
    aggregated: Callable[..., Float[Array, "B I D"]]
    """`(state, places [B]) -> G_u`; means nothing where no table waits."""

    def tables(self, state: State, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I D"]:
        """Q_u + rho_u (G_u - Q_u): the clients' tables with those that wait merged in."""
        local, rho = from_storage(state.clients.items[places]), self.rho(state, places, hyper)
        return local + rho[..., None] * (self.aggregated(state, places) - local)


class Newcomer(NamedTuple):
    """A client that was not there when the others trained."""

    key: Key[Array, ""]
    """Key of the initial parameters, that of the run."""
    items: Int[Array, " n"]
    """Items that it interacted with; I: none."""
    samples: Callable[[Array], ClientSamples]
    """`round -> samples`, with negatives drawn anew in each round."""
    rounds: Int[Array, ""]
    """Rounds of local epochs that it trains for."""


def hyper_of(kind: Any, config: Any) -> Any:
    """The numbers of a configuration that a sweep may vary.

    Args:
        kind: the method's `Hyper`, whose fields are settings, or properties of the settings.
        config: settings of the method.
    """
    return kind(*(jnp.float32(getattr(config, name)) for name in kind._fields))


class Algorithm(NamedTuple):
    """A federated method, bound to a layout and to its sizes and switches."""

    init: Callable[..., State]
    """`(key, hyper) -> state`."""
    round: Callable[..., tuple[State, Info]]
    """`(draws, state, hyper) -> (state, info)`: one communication round with these draws."""
    score: Callable[..., Float[Array, "B I"]]
    """`(state, places [B], hyper) -> logits of all items`, by the model each client would use."""
    hyper: Any
    """The numbers of the configuration, as all three functions take them."""
    traffic: Traffic
    scratch: Callable[[int], dict[str, int]]
    """`(block) -> {phase: numbers}`: float32 numbers that a phase needs on a device, beside the
    state, in blocks of so many clients."""
    classes: dict[str, tuple[SizeClass, ...]] | None = None
    """Size classes by what their clients do in a round, such as `merging`; None: all do the same,
    in the classes of the layout."""
    elastic: Elastic | None = None
    """How clients merge what they are served, if they do."""
    log_odds: bool = True
    """Whether scores are log-odds, which the scale `probability` of a protocol turns into
    probabilities. Others are ranked as they are."""
    placed: Callable[[Any], Any] = lambda server: ()
    """`(server) -> arrays` of the server that have the client axis first, like those of the
    clients."""
    lapses: dict[str, Any] | None = None
    """Fields of the clients that hold for one round, by name: the value that they have at all who
    sat the last round out. A round changes nothing else of these clients. None: there are none."""
    moves_all: float = 1.0
    """Of the clients that train in a round, the share whose tables change in all rows. Those of the
    others change in the rows of their samples alone. By it the memory of the host is planned."""
    newcomer: Callable[..., Float[Array, " I"]] | None = None
    """`(state, newcomer, hyper) -> logits of all items`: the client trains its private part alone,
    with a table of the server. None: no table is for all clients, or it takes more than that."""
    item_tables: Callable[..., Float[Array, "B I D"]] | None = None
    """`(state, places [B], hyper) -> item tables`, those that `score` uses. None: the field `items`
    of the clients, merged as `elastic` says."""


def at_place(tree: Any, place: Array) -> Any:
    """One client's part, or several clients', of arrays that have the client axis first."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


def copies(tree: Any, layout: Layout) -> Any:
    """The same parameters for every client."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.padded, *leaf.shape)), tree)

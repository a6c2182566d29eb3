"""A federation made from a known truth: planted groups, individual taste, long tails.

    z_i ~ N(0, I)                                 vector of item i, width D
    p_u = g_k + s e_u,  e_u ~ N(0, I)             taste of client u in group k
    w_ui = popularity_i exp(p_u . z_i),           popularity_i ~ (random rank of i)^-tail
    history of u = n_u items drawn without replacement with weights w_u, in random order of time

Random order makes the held-out latest items as much to the client's taste as all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError

_CHUNK = 2**22
"""Weights held at once: 32 MB an array, whatever the number of clients."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What the synthetic interactions were drawn from. Rows are indexed by the labels of users
    and items, so client u of a federation is row `federation.user_ids[u]`."""

    group: np.ndarray
    """[N] group of each client."""
    taste: np.ndarray
    """[N, D] p_u."""
    item: np.ndarray
    """[I, D] z_i."""
    popularity: np.ndarray
    """[I] share of each item in the draws of a client without taste; sums to 1."""

    def log_weight(self, clients: np.ndarray) -> np.ndarray:
        """[len(clients), I] log of the unnormalised weights the items were drawn with."""
        return self.taste[clients] @ self.item.T + np.log(self.popularity)


def synthetic(
    num_clients: int = 200,
    num_items: int = 1200,
    num_groups: int = 4,
    sizes: tuple[int, int] = (10, 1000),
    *,
    dim: int = 8,
    strength: float = 4.0,
    individual: float = 0.4,
    tail: float = 0.8,
    seed: int = 0,
) -> tuple[Interactions, Truth]:
    """Draw interactions, with unit ratings and distinct times per client, and return their truth.

    sizes: interactions of the smallest and the largest client; in between, sizes grow so that half
        of the clients stay below the square root of the ratio (31 at the default).
    dim: D, width of the true vectors.
    strength: length of g_k; 0: all clients draw by popularity alone.
    individual: typical distance of p_u from g_k, as a share of `strength`.
    tail: exponent of the popularity; 0: all items alike.

    The same arguments give the same data.

    Raises:
        UserError: the sizes cannot be drawn from so few items.
    """
    smallest, largest = sizes
    if not 1 <= smallest <= largest < num_items:
        raise UserError(
            f"sizes: {sizes} cannot be drawn from {num_items} items; give 1 <= smallest <= largest "
            "< num_items."
        )
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((num_groups, dim))
    if num_groups > 1:
        centre -= centre.mean(0)  # so that the groups agree on popularity alone
    centre *= strength / np.linalg.norm(centre, axis=1, keepdims=True)
    group = rng.permutation(num_clients) % num_groups
    spread = individual * strength / np.sqrt(dim)
    popularity = rng.permutation(np.arange(1, num_items + 1) ** -tail)
    truth = Truth(
        group=group,
        taste=centre[group] + spread * rng.standard_normal((num_clients, dim)),
        item=rng.standard_normal((num_items, dim)),
        popularity=popularity / popularity.sum(),
    )
    quantile = rng.permutation(np.linspace(0, 1, num_clients))
    count = np.rint(smallest * (largest / smallest) ** quantile**2).astype(int)
    chunk = max(1, _CHUNK // num_items)
    histories = [
        history
        for start in range(0, num_clients, chunk)
        for history in _draw(rng, truth, np.arange(num_clients)[start : start + chunk], count)
    ]
    user = np.repeat(np.arange(num_clients), count)
    order = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    return Interactions.of(user, np.concatenate(histories), time=order), truth


def _draw(rng: np.random.Generator, truth: Truth, clients: np.ndarray, count: np.ndarray):
    """The items of each client: the largest of log weight + Gumbel noise are a draw without
    replacement with these weights; shuffled, since large weights tend to come first."""
    score = truth.log_weight(clients) + rng.gumbel(size=(len(clients), len(truth.popularity)))
    for row, client in zip(score, clients, strict=True):
        largest = np.argpartition(row, -count[client])[-count[client] :]
        yield rng.permutation(largest)

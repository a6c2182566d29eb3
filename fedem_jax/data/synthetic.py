"""Synthetic interactions with a known truth: groups, individual tastes, long tails.

    z_i ~ N(0, I)                                 common vector of item i, width D
    z_i^(k) = sqrt(1 - h) z_i + sqrt(h) e_i^(k)   its vector in group k, e_i^(k) ~ N(0, I)
    p_u = g_k + s e_u,  e_u ~ N(0, I)             taste of client u in group k
    w_ui = popularity_i exp(p_u . z_i^(k)),       popularity_i ~ (random rank of i)^-tail
    history of u = n_u items drawn without replacement with weights w_u, in random order of time

Here g_k is the centre of group k, and s sets the spread within a group. The heterogeneity h is the
share of the variance of the item vectors that a group has of its own. With h = 0 one item table
suits all clients; with h = 1 what a group knows is of no use to another. The order of time is
random, so that held-out items match the taste of the client like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedem_jax.data.interactions import Interactions
from fedem_jax.errors import UserError

_CHUNK = 2**22
"""Weights in memory at once: 32 MB an array, for any number of clients."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The distributions that the synthetic interactions were drawn from.

    Rows are indexed by the labels of users and items: client u of a federation is row
    `federation.user_ids[u]`.
    """

    group: np.ndarray
    """[N] group of each client."""
    taste: np.ndarray
    """[N, D] p_u, the taste of each client."""
    item: np.ndarray
    """[I, D] z_i, the common vector of each item."""
    popularity: np.ndarray
    """[I] share of each item in the draws of a client with p_u = 0; sums to 1."""
    item_of_group: np.ndarray | None = None
    """[K, I, D] z_i^(k), the vector of each item in each group; None: z_i in all of them."""

    def log_weight(self, clients: np.ndarray) -> np.ndarray:
        """[len(clients), I] logarithm of the unnormalised weights w_ui."""
        taste, group = self.taste[clients], self.group[clients]
        if self.item_of_group is None:
            return taste @ self.item.T + np.log(self.popularity)
        match = np.empty((len(taste), len(self.popularity)))
        for number, item in enumerate(self.item_of_group):
            match[group == number] = taste[group == number] @ item.T
        return match + np.log(self.popularity)


def embedded() -> tuple[Interactions, Truth]:
    """The data set `synthetic`: twelve groups of clients, each with few interactions an item.

    Neither a table for all nor a table for each group is best here. Items mean different things to
    the groups (h = 0.3), and a group knows each item from two draws or less. experiments/README.md
    has the map of regimes.
    """
    return synthetic(600, 600, 12, (10, 60), dim=4, strength=1.0, individual=4.0, heterogeneity=0.3)


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
    heterogeneity: float = 0.0,
    seed: int = 0,
) -> tuple[Interactions, Truth]:
    """Draw interactions with unit ratings and distinct times per client; also return their truth.

    The same arguments give the same data.

    Args:
        num_clients: N.
        num_items: I.
        num_groups: groups of clients, of equal size.
        sizes: interactions of the smallest and the largest client. The client at quantile q
            has smallest (largest / smallest)^(q^2). At the default, half have at most 32.
        dim: D, width of the true vectors.
        strength: length of g_k; 0: all clients draw by popularity alone.
        individual: typical distance of p_u from g_k, as a share of `strength`.
        tail: exponent of the popularity; 0: all items are equally popular.
        heterogeneity: h, the share of the variance of the item vectors that each group has of its
            own, in [0, 1]. It changes none of the other draws.
        seed: seed of all draws.

    Raises:
        UserError: `sizes` is not ordered, or there are too few items for it; or `heterogeneity` is
            out of range.
    """
    smallest, largest = sizes
    if not 1 <= smallest <= largest < num_items:
        raise UserError(
            f"sizes: {sizes} cannot be drawn from {num_items} items; give 1 <= smallest <= largest "
            "< num_items."
        )
    if not 0 <= heterogeneity <= 1:
        raise UserError(f"heterogeneity: {heterogeneity} is no share; give a number in [0, 1].")
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((num_groups, dim))
    if num_groups > 1:
        centre -= centre.mean(0)  # so that the groups share popularity alone
    centre *= strength / np.linalg.norm(centre, axis=1, keepdims=True)
    group = rng.permutation(num_clients) % num_groups
    spread = individual * strength / np.sqrt(dim)
    popularity = rng.permutation(np.arange(1, num_items + 1) ** -tail)
    taste = centre[group] + spread * rng.standard_normal((num_clients, dim))
    item = rng.standard_normal((num_items, dim))
    truth = Truth(
        group=group,
        taste=taste,
        item=item,
        popularity=popularity / popularity.sum(),
        item_of_group=_items_of_groups(rng, item, num_groups, heterogeneity),
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
    items = np.concatenate(histories)
    return Interactions.of(user, items, time=order, cohort=group[user]), truth


def _items_of_groups(
    rng: np.random.Generator, item: np.ndarray, num_groups: int, heterogeneity: float
) -> np.ndarray | None:
    """[K, I, D] z_i^(k). The e_i^(k) come from a stream of their own."""
    if heterogeneity == 0:
        return None
    own = rng.spawn(1)[0].standard_normal((num_groups, *item.shape))
    return np.sqrt(1 - heterogeneity) * item + np.sqrt(heterogeneity) * own


def _draw(rng: np.random.Generator, truth: Truth, clients: np.ndarray, count: np.ndarray):
    """The items of each client, in random order.

    The largest values of log weight + Gumbel noise are a draw without replacement with these
    weights. They are sorted, since the order of a partition depends on the processor, and then
    shuffled.
    """
    score = truth.log_weight(clients) + rng.gumbel(size=(len(clients), len(truth.popularity)))
    for row, client in zip(score, clients, strict=True):
        largest = np.argpartition(row, -count[client])[-count[client] :]
        yield rng.permutation(np.sort(largest))

"""How much of an item's row is a group's own: h, measured from the uploads of one round.

All clients start from one table Q and solve for their vectors p_u, as FedEM does in closed form.
Its upload says what client u wants of row i. With z_u, the vector in coordinates of mean 0 and
variance 1 over the clients, and w_ui, the weight of item i in its loss:

    g_ui = w_ui (y_ui - p_u . q_i) z_u
    t    = sum_i (S_i - B_i) / sum_i (mean_u w_ui)^2
    h    = t / (t + c - t sum_k s_k^2)

S_i is the mean of g_ui . g_vi over pairs of clients of one group, B_i that over pairs of clients
of different groups. c is the variance of the rows of Q, summed over the same coordinates. Q is a
mean over groups, so a part of what is their own is in it; s_k is the share of group k among the
clients. A product of two clients has no part in the noise of either. So the scatter of uploads
within a group drops out of t, as it does in `server.cohorts.fitted_share`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from fedem_jax.client.closed_form import user_vector
from fedem_jax.config.fedem import FedEM
from fedem_jax.data.federation import Federation
from fedem_jax.runs.train import run


class Wanted(NamedTuple):
    """What the clients want of the rows of one table: g_ui = w_ui (y_ui - p_u . q_i) z_u."""

    pull: Float[np.ndarray, "C I"]
    """w_ui (y_ui - p_u . q_i)."""
    direction: Float[np.ndarray, "C D"]
    """z_u."""
    common: Float[np.ndarray, " I"]
    """Squared distance of each row of Q to their mean, in the coordinates of z_u."""
    weight: Float[np.ndarray, " I"]
    """Mean of w_ui over the clients."""

    def of_items(self, items: Int[np.ndarray, " n"]) -> Wanted:
        """The same of some items."""
        return Wanted(self.pull[:, items], self.direction, self.common[items], self.weight[items])


class Estimate(NamedTuple):
    """h of a federation, and of random groups of the same sizes."""

    h: float
    random: float
    """Mean over the random groups; about 0 if the estimate has no bias without a difference."""
    error: float
    """Standard deviation over the random groups."""


def common_table(config: FedEM, federation: Federation) -> Float[np.ndarray, "I D"]:
    """The table of FedEM with one for all, at the round that is best on validation.

    Args:
        config: the settings, with `merging="replace"`; cohorts are left out.
        federation: the data.
    """
    one = dataclasses.replace(config, aggregation="avg")
    alike = dataclasses.replace(federation, cohort=np.zeros_like(federation.cohort))
    result = run(one, alike)
    return result.item_table(federation.user_ids[0]).to_numpy()


def wanted(config: FedEM, federation: Federation, table: Float[np.ndarray, "I D"]) -> Wanted:
    """What all clients want of the rows of a table.

    Args:
        config: its `confidence` and `regularization` count.
        federation: the data.
        table: Q.
    """
    label = np.zeros((federation.num_clients, federation.num_items), np.float32)
    client = np.repeat(np.arange(federation.num_clients), np.diff(federation.offsets))
    label[client, federation.items] = 1
    rows, gram = jnp.asarray(table), jnp.asarray(table.T @ table)
    numbers = jnp.float32(config.confidence), jnp.float32(config.regularization)

    def solve(label):
        return user_vector(gram, label[:, None] * rows, *numbers)

    user = np.asarray(jax.jit(lambda labels: jax.lax.map(solve, labels))(label))
    weight = 1 + np.float32(config.confidence) * label
    variance, axes = np.linalg.eigh(np.cov(user.T))
    return Wanted(
        pull=weight * (label - user @ table.T),
        direction=(user - user.mean(0)) @ (axes / np.sqrt(variance)),
        common=((table - table.mean(0)) @ axes) ** 2 @ variance,
        weight=weight.mean(0),
    )


def heterogeneity(wanted: Wanted, group: Int[np.ndarray, " C"]) -> float:
    """h of groups of clients. Below 0 it is no share, but t / c: by chance, or by a bias.

    What one table was fitted to repels: where one client pulls a row, less is left for others of
    its taste. So t is too small for groups of one taste.
    """
    sizes = np.bincount(group)
    sums = np.stack([
        wanted.pull[group == each].T @ wanted.direction[group == each]
        for each in np.flatnonzero(sizes)
    ])  # fmt: skip
    alone = (wanted.pull**2).T @ (wanted.direction**2).sum(1)
    within = (sums**2).sum((0, 2))
    between = (sums.sum(0) ** 2).sum(1) - within
    pairs = (sizes.astype(float) ** 2).sum()
    same = (within - alone).sum() / (pairs - len(group))
    other = between.sum() / (len(group) ** 2 - pairs)
    own = (same - other) / (wanted.weight**2).sum()
    only_own = max(own, 0.0) * (1 - pairs / len(group) ** 2)  # in the rows of groups, not in Q
    return float(own / (only_own + wanted.common.mean()))


def estimate(wanted: Wanted, group: Int[np.ndarray, " C"], number: int = 20) -> Estimate:
    """h of groups, and of `number` random ones of the same sizes."""
    rng = np.random.default_rng(0)
    random = [heterogeneity(wanted, rng.permutation(group)) for _ in range(number)]
    return Estimate(heterogeneity(wanted, group), float(np.mean(random)), float(np.std(random)))

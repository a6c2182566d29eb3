"""A federation of quadratic clients, simulated sample by sample.

It does not use `closed_forms.py`. Samples are drawn, averaged and aggregated, and rho is fitted to
samples by least squares.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

TOGETHER = 8
"""Trials side by side."""


class Federation(NamedTuple):
    """N clients, R fixed choices of rho, E ways to fit it."""

    tau: Float[Array, ""]
    """Standard deviation of a client's optimum, per coordinate."""
    sigma: Float[Array, ""]
    """Standard deviation of a sample, per coordinate."""
    trained: Int[Array, " N"]
    """Number of samples that the local estimate averages."""
    weights: Float[Array, " N"]
    """Weights of the local estimates in the aggregate."""
    rho: Float[Array, "R N"]
    fitted: Int[Array, "E N"]
    """Number of samples that rho is fitted on."""
    reused: Int[Array, "E N"]
    """Number of those that were also trained on."""
    width: Int[Array, ""]
    """J, number of coordinates of an estimate; they share one rho."""


class Outcome(NamedTuple):
    """Mean squared errors per coordinate, and the learned rho."""

    local: Float[Array, " N"]
    replaced: Float[Array, " N"]
    merged: Float[Array, "R N"]
    learned: Float[Array, "E N"]
    clipped: Float[Array, "E N"]
    """Error with the learned rho cut to [0, 1]."""
    rho: Float[Array, "E N"]
    """The learned rho, not cut."""


class Client(NamedTuple):
    """The optimum, the samples and the local estimate of a client."""

    optimum: Float[Array, " J"]
    samples: Float[Array, "S J"]
    local: Float[Array, " J"]


@partial(jax.jit, static_argnames=("trials", "room"))
def simulate(
    key: Key[Array, ""], federations: Federation, trials: int, room: tuple[int, int]
) -> Outcome:
    """Outcomes [trials P ...] of P stacked federations with equally many clients.

    Args:
        trials: a multiple of `TOGETHER` compiles in half the time.
        room: capacity for the samples of a client, and for their coordinates.
    """

    def of_all(key: Key[Array, ""]) -> Outcome:
        keys = jax.random.split(key, federations.trained.shape)
        return jax.vmap(partial(trial, room=room))(keys, federations)

    return lax.map(of_all, jax.random.split(key, trials), batch_size=TOGETHER)


def trial(keys: Key[Array, " N"], federation: Federation, room: tuple[int, int]) -> Outcome:
    """Simulate one federation, with a key for each client."""
    clients = jax.vmap(partial(client, federation, room))(keys, federation.trained)
    aggregate = jnp.einsum("n,nj->j", federation.weights, clients.local, precision="highest")
    each = jax.vmap(partial(outcome, aggregate), in_axes=(0, 0, 1, 1, 1), out_axes=-1)
    sums = each(clients, federation.trained, federation.rho, federation.fitted, federation.reused)
    per_coordinate = jax.tree.map(lambda total: total / federation.width, sums)
    return per_coordinate._replace(rho=sums.rho)


def client(
    federation: Federation, room: tuple[int, int], key: Key[Array, ""], trained: Int[Array, ""]
) -> Client:
    """Draw a client's optimum and samples; its estimate is the mean of the first `trained`."""
    capacity, widest = room
    draws = jax.random.normal(key, (1 + capacity, widest))
    draws = jnp.where(jnp.arange(widest)[None] < federation.width, draws, 0)  # unused have no error
    centre = jnp.cos(jnp.arange(widest))  # arbitrary, since errors are differences
    optimum = centre + federation.tau * draws[0]
    samples = optimum[None] + federation.sigma * draws[1:]
    return Client(optimum, samples, mean_of(samples, jnp.arange(capacity) < trained))


def outcome(
    aggregate: Float[Array, " J"],
    client: Client,
    trained: Int[Array, ""],
    rho: Float[Array, " R"],
    fitted: Int[Array, " E"],
    reused: Int[Array, " E"],
) -> Outcome:
    """Errors of one client with each way to merge, summed over the coordinates.

    Args:
        aggregate: the weighted mean of all local estimates.
        client: the client.
        trained: number of its training samples.
        rho: fixed weights.
        fitted: numbers of samples that rho is fitted on.
        reused: numbers of those that were also trained on.
    """
    place = jnp.arange(client.samples.shape[0])

    def error(rho: Float[Array, ""]) -> Float[Array, ""]:
        estimate = client.local + rho * (aggregate - client.local)
        return jnp.sum((estimate - client.optimum) ** 2)

    def fit(fitted: Int[Array, ""], reused: Int[Array, ""]) -> Float[Array, ""]:
        first = trained - reused
        among = (first <= place) & (place < first + fitted)
        return fitted_rho(client.samples, among, client.local, aggregate)

    learned = jax.vmap(fit)(fitted, reused)
    errors = jax.vmap(error)
    return Outcome(
        local=error(jnp.zeros(())),
        replaced=error(jnp.ones(())),
        merged=errors(rho),
        learned=errors(learned),
        clipped=errors(jnp.clip(learned, 0, 1)),
        rho=learned,
    )


def fitted_rho(
    samples: Float[Array, "S J"],
    among: Bool[Array, " S"],
    local: Float[Array, " J"],
    aggregate: Float[Array, " J"],
) -> Float[Array, ""]:
    """The rho that minimises the squared distance from the merged estimate to these samples."""
    gap = aggregate - local
    return jnp.sum((mean_of(samples, among) - local) * gap) / jnp.sum(gap**2)


def mean_of(samples: Float[Array, "S J"], among: Bool[Array, " S"]) -> Float[Array, " J"]:
    """Mean of the marked samples."""
    return jnp.where(among[:, None], samples, 0).sum(0) / among.sum()


class Estimate(NamedTuple):
    """Mean over trials and its standard error."""

    mean: Float[np.ndarray, "..."]
    error: Float[np.ndarray, "..."]

    def away_from(self, form: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Distance to a closed form in standard errors; one part in a million is rounding."""
        return np.abs(self.mean - form) / np.hypot(self.error, 1e-6)


def over_trials(values: Float[Array, "T ..."], *, pooled: bool) -> Estimate:
    """Estimate over trials; `pooled`: of the mean over the clients (last axis), which are dependent
    within a trial."""
    trials = np.asarray(values, np.float64)
    if pooled:
        trials = trials.mean(-1)
    return Estimate(trials.mean(0), trials.std(0, ddof=1) / np.sqrt(len(trials)))

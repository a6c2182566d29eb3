"""What a compiled run draws and reaches, client by client, for a loop over clients to be compared
with."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.train import Trial


class Drawn(NamedTuple):
    """One client's samples of a round and the order in which each epoch visits them."""

    items: np.ndarray  # [S]
    labels: np.ndarray  # [S]
    orders: np.ndarray  # [E, S]

    def batches(self, epoch: int, size: int) -> Iterator[np.ndarray]:
        """Positions of the samples of each batch of an epoch; the last may hold fewer."""
        order = self.orders[epoch]
        return (order[start : start + size] for start in range(0, len(order), size))


def draws_of(trial: Trial, number: int) -> dict[int, Drawn]:
    """By client that trains in round `number`, from 0."""
    config, federation = trial.config, trial.federation
    counts = np.diff(federation.offsets) * (1 + config.num_negative)
    most = int(np.diff(federation.offsets).max()), int(np.diff(federation.barred_offsets).max())

    @jax.jit
    def draw(lists, client):
        draws = trial.draws(trial.key_draws, jnp.int32(number), lists)
        items, labels, count = draws.samples(client, *most)
        position = jnp.minimum(jnp.arange(len(items), dtype=jnp.int32), count - 1)
        epochs = jnp.arange(config.local_epochs, dtype=jnp.int32)
        return items, labels, jax.vmap(lambda e: draws.order(client, e, position, count))(epochs)

    draws = trial.draws(trial.key_draws, jnp.int32(number), trial.lists)
    found = {}
    for client in np.sort(draws.participants()):
        arrays = draw(trial.lists, jnp.int32(client))
        found[int(client)] = Drawn(*(np.asarray(x)[..., : counts[client]] for x in arrays))
    return found


def rounds_of(trial: Trial, number: int) -> list[tuple[Any, ...]]:
    """(clients, server, info, ranks, scores) after each of so many rounds on one device; float64
    where they are numbers."""
    state, reached = trial.init(), []
    segment = trial.segment(state, 1)
    everybody = jnp.arange(trial.layout.number)
    score = jax.jit(trial.algorithm.score)
    for r in range(number):
        state, info, ranks = segment(state, r)
        with jax.default_matmul_precision("highest"):
            scores = score(state, everybody, trial.algorithm.hyper)
        info = jax.tree.map(lambda leaf: leaf[0], info)
        tree = (*state, info, ranks, scores)
        reached.append(jax.tree.map(np.array, tree))
    return reached

"""What a client knows of the rows of its table: how often it sampled them, and how they score.

Two ways of weighing a row use it: the adapter of features, and shrinkage, a closed form.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from fedem_jax.core.samples import ClientSamples

NUM_FEATURES = 8
"""Features of a row, F."""


def counted(samples: ClientSamples, num_items: int) -> Float[Array, "2 I"]:
    """Samples of each item: positives and negatives."""
    present = jnp.arange(samples.row_of.shape[0]) < samples.count
    number = jnp.zeros(samples.rows.shape).at[samples.row_of].add(present.astype(jnp.float32))
    positive = number * samples.labels
    both = jnp.stack([positive, number - positive])
    return jnp.zeros((2, num_items)).at[:, samples.rows].add(both, mode="drop")


def features(
    score: Callable[[Float[Array, "I D"]], Float[Array, " I"]],
    local: Float[Array, "I D"],
    aggregated: Float[Array, "I D"],
    seen: Float[Array, "2 I"],
) -> Float[Array, "I F"]:
    """Features of each row: 1; log(1 + positives), log(1 + negatives); the scores of q and g; and
    the norms of q, g and g - q.

    Both scores are divided by their root mean square over the table. The norms are divided by the
    mean norm of q and g. So the features of clients with tables of different size are alike.

    How many clients moved a row is no feature: after a merge a client uploads all rows moved, so
    the server cannot tell.

    Args:
        score: logits of rows, by the client's own parameters.
        local: q, the client's own rows.
        aggregated: g, the rows that the server aggregated for it.
        seen: samples that the own row was trained on, positives and negatives.
    """
    scores = jnp.stack([score(local), score(aggregated)])
    pair = jnp.stack([local, aggregated, aggregated - local])
    norms = jnp.sqrt(jnp.sum(pair**2, axis=-1))
    size = jnp.sqrt(jnp.mean(scores**2))
    parts = (
        jnp.ones((1, len(local))),
        jnp.log1p(seen),
        scores / jnp.maximum(size, 1e-12),
        norms / jnp.maximum(norms[:2].mean(), 1e-12),
    )
    return jnp.concatenate(parts).T


def shrinkage(
    local: Float[Array, "I D"], aggregated: Float[Array, "I D"], samples: Float[Array, " I"]
) -> Float[Array, " I"]:
    """rho_i = s2 / (s2 + n_i t2), and 1 where the client has no sample of the item (Eq. 4 of
    experiments/theory.md, for a client whose own weight in the aggregate is small).

    The own row q_i misses what the client wants by an error of variance s2 / n_i a coordinate. The
    row g_i of the aggregate misses it by an error of variance t2 (V in Eq. 2). That holds the
    heterogeneity and the error of the others' mean. The two errors are independent, so

        E |g_i - q_i|^2 / D = s2 / n_i + t2,   or with  z_i = n_i |g_i - q_i|^2 / D:
        E z_i = s2 + n_i t2.

    Both variances are those of the least-squares line of z_i against n_i, over the rows with
    samples: the intercept is s2 and the slope is t2. In the fit of |g_i - q_i|^2 a row thus weighs
    n_i^2. That suits a square with a standard deviation near s2 / n_i. A variance is not
    negative: if the slope is, t2 = 0 and s2 is the mean of z; if the intercept is, s2 = 0. The line
    has no slope if all n_i are alike; then t2 = 0.

    Args:
        local: q, the client's own rows.
        aggregated: g, the rows that the server aggregated for it.
        samples: n_i, samples that the own row was trained on. A merge keeps 1 - rho of the own row,
            and so of its samples; they need not be whole numbers.
    """
    n, used = samples, samples > 0
    z = n * jnp.mean((aggregated - local) ** 2, axis=-1)
    number = jnp.maximum(used.sum(), 1)
    mean_n, mean_z = n.sum() / number, z.sum() / number  # both are 0 where there is no sample
    off = jnp.where(used, n - mean_n, 0.0)
    spread = jnp.sum(off**2)
    slope = jnp.sum(off * z) / jnp.where(spread > 0, spread, 1.0)
    intercept = mean_z - slope * mean_n
    through_zero = jnp.sum(n * z) / jnp.maximum(jnp.sum(n**2), 1e-12)
    s2 = jnp.where(slope < 0, mean_z, jnp.maximum(intercept, 0.0))
    t2 = jnp.where(intercept < 0, through_zero, jnp.maximum(slope, 0.0))
    total = s2 + n * t2
    return jnp.where(used & (total > 0), s2 / jnp.where(total > 0, total, 1.0), 1.0)

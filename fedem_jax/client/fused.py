"""Local training of a client in one kernel, for the matrix factorisation backbone.

`fit_fused` computes what `client.local.fit_embedding` computes. XLA runs about ten kernels a step;
here one Pallas program (`client.kernel`) runs all steps of a client. It is written for one client,
and `jax.vmap` gives it a grid over clients and trials. On a CPU Pallas interprets it, which is
slow: for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from fedem_jax.client.kernel import (
    DECAY_1,
    DECAY_2,
    Batch,
    Given,
    Made,
    Memory,
    Scores,
    train_client,
)
from fedem_jax.client.local import InTurn
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

CELLS = 4096
"""Most numbers of a table that are worked on at once: 256 rows of width 16. There are too few
registers for more: the kernel that merges would keep 22 kB of a thread in memory at width 32."""
WARPS = 8
"""Warps of 32 threads that work on a client. The plain kernel then takes 128 registers a thread, so
that two clients share a multiprocessor. With 4 warps, and `OTHERS` of 16, a round of MovieLens-1M
took 1.45 times as long on an H100."""
NARROWEST = 16
"""Fewest places and columns: what a matrix product of Triton needs."""


class Adam(NamedTuple):
    """Adam of the user vector and the item table, with moments of zero at the start."""

    lr: Float[Array, ""]


class Products(NamedTuple):
    """A client whose scores are p . q."""

    loss: str
    name: str = "plain"

    def nothing(self, own: Any) -> Any:
        return own

    def by_own(self, own: Any, user: Float[Array, " D"], batch: Batch) -> Any:
        return own

    def adapted(self, own: Any, summed: Any, unbiased: tuple[Array, Array]) -> Any:
        return own

    def slopes(self, own: Any, user: Float[Array, " D"], batch: Batch) -> tuple[Array, ...]:
        value, slope = SLOPES[self.loss](jnp.sum(user[None] * batch.rows, axis=1), batch.label)
        slope = batch.weight * slope
        by_user = jnp.sum(slope[:, None] * batch.rows, axis=0)
        return jnp.sum(batch.weight * value), by_user, slope[:, None] * user[None]


def slope_of_probability(logit, label):
    """Value and slope by the logit of `models.losses.probability_bce`."""
    p = 1 / (1 + jnp.exp(-logit))
    s = p * (1 - p)
    likelihood = jnp.where(label > 0, p, 1 - p)
    value = -jnp.maximum(jnp.log(likelihood), -100.0)
    return value, (p - label) * (s / jnp.maximum(s, 1e-12))


def slope_of_logit(logit, label):
    """Value and slope by the logit of `models.losses.logit_bce`."""
    signed = jnp.where(label > 0, -logit, logit)
    value = jnp.maximum(signed, 0.0) + jnp.log(1 + jnp.exp(-jnp.abs(signed)))
    return value, 1 / (1 + jnp.exp(-logit)) - label


SLOPES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "logit": slope_of_logit,
    "probability": slope_of_probability,
}


def fit_fused(
    scores: Scores,
    own: Any,
    user: Float[Array, " D"],
    table: Float[Array, "M D"],
    target: Float[Array, "M D"] | None,
    samples: ClientSamples,
    optimiser: Adam | InTurn,
    interpret: bool | None = None,
) -> tuple[Any, Float[Array, " D"], Float[Array, "M D"], Trained]:
    """Train a client's user vector and its compact table together, in one kernel.

    Args:
        scores: how it scores.
        own: what it trains beside these, a tree of arrays. Arrays of length 1 are numbers.
        user: p_u.
        table: rows of its item table that its samples touch.
        target: the same rows of the table that it merges.
        samples: of the client.
        optimiser: Adam, or plain gradient steps in turn.
        interpret: whether Pallas interprets the kernel; None: on a CPU.
    """
    # JAX announces the end of this backend. Without it the self-test fails, and XLA trains.
    from jax.experimental.pallas import triton

    (num_rows, dim), rule = table.shape, samples.rule
    batch = min(rule.batch_size, samples.row_of.shape[0])
    places = max(NARROWEST, pl.next_power_of_2(batch))
    columns = wide(dim)  # added columns stay exact zeros
    tile = min(at_once(dim), pl.next_power_of_2(num_rows + 1))
    height = -(-(num_rows + 1) // tile) * tile

    def padded(rows):
        return jnp.pad(rows, ((0, height - num_rows), (0, columns - dim)))

    present = jnp.arange(samples.row_of.shape[0]) < samples.count
    used = jnp.max(jnp.where(present, samples.row_of + 1, 0))
    num_batches, tiles = -(-samples.count // batch), -(-used // tile)
    visited = rows_visited(samples, batch, places, spare=height - 1)
    rates = optimiser if isinstance(optimiser, InTurn) else (optimiser.lr, optimiser.lr)
    epochs = rule.local_epochs if samples.epochs is None else samples.epochs
    given = Given(
        user=jnp.pad(user, (0, columns - dim)),
        own=own,
        target=None if target is None else padded(target),
        labels=jnp.pad(samples.labels, (0, height - num_rows)),
        visited=visited,
        unbiased=bias_corrections(len(visited) // places),
        counts=jnp.stack([num_batches, samples.count, used, tiles, epochs]).astype(jnp.int32),
        reals=jnp.stack([jnp.asarray(x, jnp.float32) for x in (rule.threshold, *rates)]),
    )
    rows = padded(table)
    memory = Memory(rows, jnp.zeros_like(rows), jnp.zeros_like(rows), jnp.zeros(height, jnp.int32))
    running, ran = jnp.zeros(rule.local_epochs), jnp.zeros(1, jnp.int32)
    made = Made(memory, given.user, own, running, ran)

    def run(memory: Memory, given: Given, interpreted: bool) -> tuple:
        kernel = partial(
            train_client,
            scores=scores,
            in_turn=isinstance(optimiser, InTurn),
            epochs=rule.local_epochs,
            batch=batch,
            places=places,
            part=min(at_once(dim), places),
            tile=tile,
            offset=rule.offset,
            barrier=(lambda: None) if interpreted else triton.debug_barrier,
        )
        return pl.pallas_call(
            kernel,
            out_shape=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made),
            input_output_aliases={n: n for n in range(len(memory))},
            interpret=interpreted,
            name=f"train_{scores.name}",
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        )(memory, given)

    if interpret is None:
        on_cpu, elsewhere = partial(run, interpreted=True), partial(run, interpreted=False)
        made = Made(*lax.platform_dependent(memory, given, cpu=on_cpu, default=elsewhere))
    else:
        made = Made(*run(memory, given, interpret))
    trained = Trained(made.running, made.running[made.ran[0] - 1], made.ran[0])
    return made.own, made.user[:dim], made.memory.table[:num_rows, :dim], trained


def wide(width: int) -> int:
    """Columns that a width takes in the kernel."""
    return max(NARROWEST, pl.next_power_of_2(width))


def at_once(dim: int) -> int:
    """Rows of this width that the kernel works on at once, as it does on places of a batch."""
    return max(NARROWEST, CELLS // wide(dim))


def rows_visited(samples: ClientSamples, batch: int, places: int, spare: int) -> Int[Array, " N"]:
    """The row at each place of each step of each epoch, in the order of `local.run_epochs`.

    Args:
        samples: of the client.
        batch: most samples of a step.
        places: of a step, at least as many.
        spare: a row that no sample falls on.
    """
    step = jnp.arange(-(-samples.row_of.shape[0] // batch), dtype=jnp.int32)[:, None]
    place = jnp.arange(places, dtype=jnp.int32)
    position = step * batch + place[None]
    present = (place < batch)[None] & (position < samples.count)

    def epoch(e):
        index = samples.order(e, samples.count)(jnp.where(present, position, 0).ravel())
        return jnp.where(present.ravel(), samples.row_of[index], spare)

    epochs = jnp.arange(samples.rule.local_epochs, dtype=jnp.int32)
    return jax.vmap(epoch)(epochs).ravel().astype(jnp.int32)


def bias_corrections(steps: int) -> Float[Array, "N 2"]:
    """1 / (1 - decay^k) of both moments at step k = 1, 2, ...: the kernel multiplies by them."""
    k = jnp.arange(1, steps + 1, dtype=jnp.int32)
    return 1 / jnp.stack([1 - DECAY_1**k, 1 - DECAY_2**k], axis=1).astype(jnp.float32)

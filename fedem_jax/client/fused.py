"""All local epochs of one client in one kernel, for the matrix factorisation backbone.

`fit_fused` computes what `client.local.fit_embedding` computes. XLA runs about ten kernels a step;
here one Pallas program runs all steps of a client. It is written for one client, and `jax.vmap`
gives it a grid over clients and trials. On a CPU Pallas interprets it, which is slow: for tests.
No GPU has run it.

Adam moves every row at every step. A row outside the batch needs nothing but its own moments for
that, so its steps can wait. A step of the kernel reads only the rows of its batch and brings them
up to date first. After every `CHUNK` steps all rows are brought up to date. Each number goes
through the same operations in the same order as in dense Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from fedem_jax.client.local import InTurn
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples

CHUNK = 8
"""Steps after which all rows are brought up to date."""
TILE = 256
"""Most rows that are brought up to date at once."""
DECAY_1, DECAY_2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam, as optax has them."""


class Adam(NamedTuple):
    """Adam of the user vector and the item table, with moments of zero at the start."""

    lr: Float[Array, ""]


class Visits(NamedTuple):
    """Which rows the steps of a client meet. A step has W places, a power of two."""

    row: Int[Array, " N"]
    """Row of each place of each step of each epoch; the spare row where there is no sample."""
    samples: Int[Array, " N"]
    """Samples of the batch on that row, where the batch meets it first; 0 at its other places."""


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
    loss: str,
    user: Float[Array, " D"],
    table: Float[Array, "M D"],
    samples: ClientSamples,
    optimiser: Adam | InTurn,
    interpret: bool | None = None,
) -> tuple[Float[Array, " D"], Float[Array, "M D"], Trained]:
    """Train a client's user vector and its compact table together, in one kernel.

    Args:
        loss: name of the loss, one of `SLOPES`.
        user: p_u.
        table: rows of its item table that its samples touch.
        samples: of the client.
        optimiser: Adam, or plain gradient steps in turn.
        interpret: whether Pallas interprets the kernel; None: where the backend is a CPU.
    """
    if interpret is None:
        interpret = jax.default_backend() == "cpu"
    (num_rows, dim), rule = table.shape, samples.rule
    batch = min(rule.batch_size, samples.row_of.shape[0])
    places = pl.next_power_of_2(batch)
    tile = min(TILE, pl.next_power_of_2(num_rows + 1))
    height = -(-(num_rows + 1) // tile) * tile
    columns = pl.next_power_of_2(dim)  # added columns stay exact zeros
    visits = visits_of(samples, batch, places, spare=height - 1)
    rows = jnp.pad(table, ((0, height - num_rows), (0, columns - dim)))
    labels = jnp.pad(samples.labels, (0, height - num_rows))
    vector = jnp.pad(user, (0, columns - dim))
    rates = optimiser if isinstance(optimiser, InTurn) else (optimiser.lr, optimiser.lr)
    reals = jnp.stack([jnp.asarray(x, jnp.float32) for x in (rule.threshold, *rates)])
    epochs = rule.local_epochs if samples.epochs is None else samples.epochs
    counts = jnp.stack([-(-samples.count // batch), samples.count, epochs]).astype(jnp.int32)
    zeros, never = jnp.zeros_like(rows), jnp.zeros(height, jnp.int32)
    state = (rows, zeros, zeros, never)
    running, ran = jnp.zeros(rule.local_epochs), jnp.zeros(1, jnp.int32)
    kernel = pl.pallas_call(
        partial(
            train_client,
            slope=SLOPES[loss],
            in_turn=isinstance(optimiser, InTurn),
            epochs=rule.local_epochs,
            batch=batch,
            places=places,
            tile=tile,
            offset=rule.offset,
            barrier=(lambda: None) if interpret else triton.debug_barrier,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*state, vector, running, ran)],
        input_output_aliases={0: 0, 1: 1, 2: 2, 3: 3},
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=1),
    )
    given = (vector, labels, *visits, bias_corrections(len(visits.row) // places), counts, reals)
    rows, _, _, _, vector, running, ran = kernel(*state, *given)
    trained = Trained(running, running[ran[0] - 1], ran[0])
    return vector[:dim], rows[:num_rows, :dim], trained


def visits_of(samples: ClientSamples, batch: int, places: int, spare: int) -> Visits:
    """The rows that a client's steps meet, in the order of `client.local.run_epochs`.

    Args:
        samples: of the client.
        batch: most samples of a step.
        places: of a step, at least as many.
        spare: a row that no sample falls on.
    """
    most_batches = -(-samples.row_of.shape[0] // batch)
    place = jnp.arange(places, dtype=jnp.int32)

    def epoch(e):
        visited = samples.order(e, samples.count)

        def step(b):
            position = b * batch + place
            present = (place < batch) & (position < samples.count)
            index = visited(jnp.where(present, position, 0))
            row = jnp.where(present, samples.row_of[index], spare)
            first = jnp.full(spare + 1, places, jnp.int32).at[row].min(place)
            number = jnp.zeros(spare + 1, jnp.int32).at[row].add(1)
            return row, jnp.where(present & (first[row] == place), number[row], 0)

        return lax.map(step, jnp.arange(most_batches, dtype=jnp.int32))

    row, number = lax.map(epoch, jnp.arange(samples.rule.local_epochs, dtype=jnp.int32))
    return Visits(row.reshape(-1).astype(jnp.int32), number.reshape(-1))


def bias_corrections(steps: int) -> Float[Array, "N 2"]:
    """1 / (1 - decay^k) of both moments at step k = 1, 2, ...: the kernel multiplies by them."""
    k = jnp.arange(1, steps + 1, dtype=jnp.int32)
    return 1 / jnp.stack([1 - DECAY_1**k, 1 - DECAY_2**k], axis=1).astype(jnp.float32)


def adam_step(lr, x, first, second, gradient, unbiased):
    """Parameters and both moments after a step of Adam; gradient None: exact zeros."""
    if gradient is None:
        first, second = DECAY_1 * first, DECAY_2 * second
    else:
        first = (1 - DECAY_1) * gradient + DECAY_1 * first
        second = (1 - DECAY_2) * (gradient * gradient) + DECAY_2 * second
    move = (first * unbiased[0]) / (jnp.sqrt(second * unbiased[1]) + EPSILON)
    return x - lr * move, first, second


def train_client(*refs: Any, slope, in_turn, epochs, batch, places, tile, offset, barrier) -> None:
    """The kernel: all epochs of one client.

    Table, moments and the last step of each row stay in global memory, in the outputs. The first
    four inputs are the same memory, so they are not read.

    Args:
        refs: inputs, then outputs, as `fit_fused` names them.
        slope: of the loss by the logit.
        in_turn: plain gradient steps in turn; else Adam.
        epochs, batch, places, tile, offset: sizes and the offset of the early stop.
        barrier: waits until the program's threads see each other's writes.
    """
    vector_ref, label_ref, row_ref, number_ref, unbiased_ref, count_ref, real_ref = refs[4:11]
    table_ref, first_ref, second_ref, last_ref, user_ref, running_ref, ran_ref = refs[11:]
    height, dim = table_ref.shape
    tables = (table_ref, first_ref, second_ref)
    num_batches, count, most_epochs = count_ref[0], count_ref[1], count_ref[2]
    threshold, lr_user, lr_table = real_ref[0], real_ref[1], real_ref[2]
    steps_an_epoch = row_ref.shape[0] // (epochs * places)

    def cells(row):
        shape = (row.shape[0], dim)
        return lax.broadcast_in_dim(row, shape, (0,)), lax.broadcasted_iota(jnp.int32, shape, 1)

    def read(row):
        return tuple(triton.load(ref.at[cells(row)]) for ref in tables)

    def write(row, values):
        for ref, value in zip(tables, values, strict=True):
            triton.store(ref.at[cells(row)], value)

    def unbiased(step):
        return unbiased_ref[step, 0], unbiased_ref[step, 1]

    def caught_up(row, begin, end):
        """Rows after the steps `begin` to `end` - 1 that they have not made yet."""
        last = triton.load(last_ref.at[cells(row)[0]])

        def idle(step, values):
            new = adam_step(lr_table, *values, gradient=None, unbiased=unbiased(step))
            due = last <= step
            return tuple(jnp.where(due, n, old) for n, old in zip(new, values, strict=True))

        return lax.fori_loop(begin, end, idle, read(row))

    def one_step(b, begin, step, at, carry):
        """Step `step` on batch b, whose places start at `at`; all rows have made `begin` steps."""
        (user, user_first, user_second), total = carry
        size = jnp.minimum(count - b * batch, batch).astype(jnp.float32)
        row = triton.load(row_ref.at[pl.ds(at, places)])
        number = triton.load(number_ref.at[pl.ds(at, places)])
        weight = number.astype(jnp.float32) / size
        label = triton.load(label_ref.at[row])
        rows, first, second = read(row) if in_turn else caught_up(row, begin, step)

        def losses(user):
            value, by_logit = slope(jnp.sum(user[None] * rows, axis=1), label)
            return jnp.sum(weight * value), weight * by_logit

        loss, by_logit = losses(user)
        user_gradient = jnp.sum(by_logit[:, None] * rows, axis=0)
        if in_turn:
            user = user - lr_user * user_gradient
            loss, by_logit = losses(user)
            new = (rows - lr_table * (by_logit[:, None] * user[None]), first, second)
        else:
            gradient = by_logit[:, None] * user[None]
            new = adam_step(lr_table, rows, first, second, gradient, unbiased(step))
            user, user_first, user_second = adam_step(
                lr_user, user, user_first, user_second, user_gradient, unbiased(step)
            )
        barrier()
        row = jnp.where(number > 0, row, height - 1)  # one place writes a row
        write(row, new)
        triton.store(last_ref.at[row], jnp.full(places, step + 1, jnp.int32))
        barrier()
        return (user, user_first, user_second), total + loss * size

    def one_epoch(e, batches, carry):
        def chunk(c, carry):
            begin = e * num_batches + c * CHUNK
            steps = jnp.minimum(CHUNK, batches - c * CHUNK)

            def step(j, carry):
                b = c * CHUNK + j
                at = (e * steps_an_epoch + b) * places
                return one_step(b, begin, begin + j, at, carry)

            def settle(k, none):
                row = k * tile + jnp.arange(tile, dtype=jnp.int32)
                write(row, caught_up(row, begin, begin + steps))
                return none

            carry = lax.fori_loop(0, steps, step, carry)
            if not in_turn:
                lax.fori_loop(0, height // tile, settle, None)
                barrier()
            return carry

        return lax.fori_loop(0, (batches + CHUNK - 1) // CHUNK, chunk, carry)

    def epoch(e, loop):
        active, carry, total, before, ran = loop
        going = active > 0
        # A client that stopped goes through its other epochs without a batch.
        carry, total = one_epoch(e, jnp.where(going, num_batches, 0), (carry, total))
        now = total / jnp.maximum((e + 1) * count, 1).astype(jnp.float32)
        settled = (e > 0) & (jnp.abs(now - before) / jnp.abs(before + offset) < threshold)
        running_ref[e] = jnp.where(going, now, jnp.nan)
        return (
            jnp.where(settled | (e + 1 >= most_epochs), 0, active),
            carry,
            total,
            now,
            ran + active,
        )

    user = vector_ref[...]
    carry = (user, jnp.zeros_like(user), jnp.zeros_like(user))
    zero = jnp.float32(0)
    start = ((count > 0).astype(jnp.int32), carry, zero, zero, jnp.int32(0))
    _, (user, *_), _, _, ran = lax.fori_loop(0, epochs, epoch, start)
    user_ref[...] = user
    ran_ref[0] = ran

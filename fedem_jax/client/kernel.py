"""The kernel that trains one client: all its local epochs in one Pallas program.

Adam moves every row at every step. A row outside the batch needs nothing but its own moments for
that, so its steps can wait. A step of the kernel reads only the rows of its batch and brings them
up to date first. After every `CHUNK` steps all rows are brought up to date. Each number goes
through the same operations in the same order as in dense Adam.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

CHUNK = 8
"""Steps after which all rows are brought up to date."""
OTHERS = 32
"""Most places that those at work are compared with at once."""
MANY = 2**15
"""More than the places of a step."""
DECAY_1, DECAY_2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam, as optax has them."""


class Batch(NamedTuple):
    """What a step sees of a batch at once, place by place: all of it, or a part of W places."""

    rows: Float[Array, "W D"]
    """Rows of the client's table."""
    away: Float[Array, "W D"] | None
    """The way from these to the rows of the table that it merges; None: it merges nothing."""
    label: Float[Array, " W"]
    weight: Float[Array, " W"]
    """Share of the batch's samples on the row, where the batch meets it first; else 0."""


@runtime_checkable
class Scores(Protocol):
    """How a client scores rows, with what it trains beside user vector and table: `own`, a tree."""

    @property
    def name(self) -> str:
        """Of the kernel, after `train_`."""
        ...

    def nothing(self, own: Any) -> Any:
        """Zeros, as many as `by_own` returns."""
        ...

    def by_own(self, own: Any, user: Float[Array, " D"], batch: Batch) -> Any:
        """What `adapted` needs of these places, summed over them."""
        ...

    def adapted(self, own: Any, summed: Any, unbiased: tuple[Array, Array]) -> Any:
        """`own` after its step, which is the first of a batch."""
        ...

    def slopes(self, own: Any, user: Float[Array, " D"], batch: Batch) -> tuple[Array, ...]:
        """Loss of these places, and its slopes by the user vector, [D], and by the rows, [W D]."""
        ...


class Memory(NamedTuple):
    """What a client's program keeps in global memory, row by row."""

    table: Float[Array, "H D"]
    first: Float[Array, "H D"]
    second: Float[Array, "H D"]
    """Moments of Adam."""
    last: Int[Array, " H"]
    """The step after the last one that moved the row."""


class Given(NamedTuple):
    """What the kernel reads."""

    user: Float[Array, " D"]
    own: Any
    target: Float[Array, "H D"] | None
    labels: Float[Array, " H"]
    visited: Int[Array, " N"]
    """Row at each place of each step of each epoch; the last one where there is no sample."""
    unbiased: Float[Array, "n 2"]
    counts: Int[Array, "5"]
    """Batches and samples of an epoch; rows that samples fall on, and tiles that hold them; epochs
    that the client has time for."""
    reals: Float[Array, "3"]
    """Threshold of the early stop; step sizes of user vector and table."""


class Made(NamedTuple):
    """What the kernel writes."""

    memory: Memory
    user: Float[Array, " D"]
    own: Any
    running: Float[Array, " E"]
    ran: Int[Array, "1"]


def adam_step(lr, x, first, second, gradient, unbiased):
    """Parameters and both moments after a step of Adam; gradient None: exact zeros."""
    if gradient is None:
        first, second = DECAY_1 * first, DECAY_2 * second
    else:
        first = (1 - DECAY_1) * gradient + DECAY_1 * first
        second = (1 - DECAY_2) * (gradient * gradient) + DECAY_2 * second
    move = (first * unbiased[0]) / (jnp.sqrt(second * unbiased[1]) + EPSILON)
    return x - lr * move, first, second


def train_client(
    _: Any, given: Any, *outputs: Any, scores: Scores, in_turn, epochs, batch, places,
    part, tile, offset, barrier,
) -> None:  # fmt: skip
    """The kernel: all epochs of one client. Its table and moments stay in global memory.

    Args:
        _: references to a `Memory`: the same as in the outputs, so it is not read.
        given, outputs: references to what `Given` and `Made` name.
        scores: how the client scores.
        in_turn: plain gradient steps in turn; else Adam.
        epochs, batch, places, offset: sizes and the offset of the early stop.
        part: places of a batch that are worked on at once.
        tile: rows that are brought up to date at once.
        barrier: waits until the program's threads see each other's writes.
    """
    from jax.experimental.pallas import triton  # as in `fit_fused`

    made: Any = Made(*outputs)
    height, dim = made.memory.table.shape
    tables = made.memory[:3]
    num_batches, count = given.counts[0], given.counts[1]
    used, tiles, most_epochs = given.counts[2], given.counts[3], given.counts[4]
    threshold, lr_user, lr_table = given.reals[0], given.reals[1], given.reals[2]
    steps_an_epoch = given.visited.shape[0] // (epochs * places)

    def cells(row):
        shape = (row.shape[0], dim)
        return lax.broadcast_in_dim(row, shape, (0,)), lax.broadcasted_iota(jnp.int32, shape, 1)

    def read(row):
        return tuple(triton.load(ref.at[cells(row)]) for ref in tables)

    def write(row, values):
        for ref, value in zip(tables, values, strict=True):
            triton.store(ref.at[cells(row)], value)

    def unbiased(step):
        return given.unbiased[step, 0], given.unbiased[step, 1]

    def samples_on(row, place, at, size):
        """Samples of the batch on the row of each place, where the batch meets it first; else 0."""
        others = min(OTHERS, places)

        def compare(k, found):
            other = triton.load(given.visited.at[pl.ds(at + k * others, others)])
            ahead = (k * others + jnp.arange(others, dtype=jnp.int32))[None] < place[:, None]
            same = row[:, None] == other[None]
            return found + jnp.sum(jnp.where(same, jnp.where(ahead, MANY + 1, 1), 0), axis=1)

        # one sum for both: all places of the same row, and MANY for each that comes earlier
        steps = (size + others - 1) // others
        found = lax.fori_loop(0, steps, compare, jnp.zeros_like(row))
        return jnp.where((found < MANY) & (row < height - 1), found, 0)

    def caught_up(row, begin, end):
        """Rows after the steps `begin` to `end` - 1 that they have not made yet."""
        last = triton.load(made.memory.last.at[cells(row)[0]])
        # Where all have made the steps up to `behind`, nobody goes through them again.
        last_of_row = triton.load(made.memory.last.at[row])
        behind = jnp.min(jnp.where(row < used, last_of_row, end))

        def idle(step, values):
            new = adam_step(lr_table, *values, gradient=None, unbiased=unbiased(step))
            due = last <= step
            return tuple(jnp.where(due, n, old) for n, old in zip(new, values, strict=True))

        return lax.fori_loop(jnp.maximum(begin, behind), end, idle, read(row))

    def one_step(b, begin, step, at, carry):
        """Step `step` on batch b, whose places start at `at`; all rows have made `begin` steps."""
        (user, user_first, user_second), own, total = carry
        size = jnp.minimum(count - b * batch, batch)

        def sum_of(work, zeros):
            """The sum of `work(k)` over the parts of the batch that hold samples."""
            if part == places:
                return work(0)

            def add(k, summed):
                return jax.tree.map(jnp.add, summed, work(k))

            return lax.fori_loop(0, (size + part - 1) // part, add, zeros)

        def look(k):
            """Part k of the batch, its rows, how many samples fall on each, and their moments."""
            row = triton.load(given.visited.at[pl.ds(at + k * part, part)])
            place = k * part + jnp.arange(part, dtype=jnp.int32)
            number = samples_on(row, place, at, size)
            rows, first, second = read(row) if in_turn else caught_up(row, begin, step)
            to = None if given.target is None else triton.load(given.target.at[cells(row)]) - rows
            label = triton.load(given.labels.at[row])
            weight = number.astype(jnp.float32) / size.astype(jnp.float32)
            return Batch(rows, to, label, weight), row, number, (first, second)

        whole = look(0) if part == places else None

        def seen(k):
            return whole or look(k)

        def by_own(k):
            here, *_ = seen(k)
            return scores.by_own(own, user, here)

        def by_user(k):
            here, *_ = seen(k)
            return scores.slopes(own, user, here)[1]

        def move(k):
            here, row, number, (first, second) = seen(k)
            loss, for_user, by_rows = scores.slopes(own, user, here)
            if in_turn:
                new = (here.rows - lr_table * by_rows, first, second)
            else:
                new = adam_step(lr_table, here.rows, first, second, by_rows, unbiased(step))
            barrier()
            row = jnp.where(number > 0, row, height - 1)  # one place writes a row
            write(row, new)
            triton.store(made.memory.last.at[row], jnp.full(part, step + 1, jnp.int32))
            return loss, for_user

        nothing = jnp.zeros_like(user)
        if jax.tree.leaves(own):
            own = scores.adapted(own, sum_of(by_own, scores.nothing(own)), unbiased(step))
        if in_turn:
            user = user - lr_user * sum_of(by_user, nothing)
        loss, for_user = sum_of(move, (jnp.float32(0), nothing))
        if not in_turn:
            user, user_first, user_second = adam_step(
                lr_user, user, user_first, user_second, for_user, unbiased(step)
            )
        barrier()
        return (user, user_first, user_second), own, total + loss * size.astype(jnp.float32)

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
                lax.fori_loop(0, tiles, settle, None)
                barrier()
            return carry

        return lax.fori_loop(0, (batches + CHUNK - 1) // CHUNK, chunk, carry)

    def epoch(e, loop):
        active, (user, own, total), before, ran = loop
        going = active > 0
        # A client that stopped goes through its other epochs without a batch.
        carry = one_epoch(e, jnp.where(going, num_batches, 0), (user, own, total))
        now = carry[2] / jnp.maximum((e + 1) * count, 1).astype(jnp.float32)
        settled = (e > 0) & (jnp.abs(now - before) / jnp.abs(before + offset) < threshold)
        made.running[e] = jnp.where(going, now, jnp.nan)
        ends = settled | (e + 1 >= most_epochs)
        return jnp.where(ends, 0, active), carry, now, ran + active

    user = given.user[...]
    own = jax.tree.map(lambda ref: ref[0] if ref.shape == (1,) else ref[...], given.own)
    carry = ((user, jnp.zeros_like(user), jnp.zeros_like(user)), own, jnp.float32(0))
    start = ((count > 0).astype(jnp.int32), carry, jnp.float32(0), jnp.int32(0))
    _, ((user, *_), own, _), _, ran = lax.fori_loop(0, epochs, epoch, start)
    made.user[...], made.ran[0] = user, ran
    for ref, value in zip(jax.tree.leaves(made.own), jax.tree.leaves(own), strict=True):
        ref[0 if ref.shape == (1,) else ...] = value

"""Local training: what one client does with its samples of a round.

All is written without a client axis. `core.round.train_clients` maps it over a block of clients and
names the mapped axis `BLOCK`. A client that has fewer batches than its neighbours, or that stopped
early, is left exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.config.shared import LocalOptimiser
from fedem_jax.core.blocks import alone, loop_bound
from fedem_jax.core.round import Trained
from fedem_jax.core.samples import ClientSamples
from fedem_jax.models.scoring import LossOfBatch

Carry = TypeVar("Carry")
Objective = Callable[[Any, Array, Array, Array], Array]
"""`(private, rows [M D], labels [M], weights [M]) -> loss` of a batch: weighted sum over the rows,
whose weights are shares of the samples; or a `LossOfBatch`, whose weights are their numbers."""


class InTurn(NamedTuple):
    """Plain gradient steps in turn, batch by batch, as in the released program of PFedRec.

    The client's own parameters move first. Its item table moves then; its loss is reported.
    """

    lr_private: Float[Array, ""]
    lr_table: Float[Array, ""]


Optimiser = optax.GradientTransformation | InTurn
"""Of the pair `(private, table)`."""


def optimiser_of(config: LocalOptimiser, hyper: Any, num_items: int) -> Optimiser:
    """The optimiser that the settings name.

    Args:
        config: names it.
        hyper: the numbers `lr_embedding` and `lr_item_factor`.
        num_items: I. The loss is a mean over a batch, so a row's gradient is small.
    """
    if config.local_optimiser == "adam":
        return optax.adam(hyper.lr_embedding)
    return InTurn(hyper.lr_embedding, hyper.lr_embedding * num_items * hyper.lr_item_factor)


def own_optimiser(config: LocalOptimiser, hyper: Any) -> optax.GradientTransformation:
    """The same of the client's own parameters alone, beside a table that stays as it is."""
    kinds = {"adam": optax.adam, "sgd": optax.sgd}
    return kinds[config.local_optimiser](hyper.lr_embedding)


def memory_of(optimiser: Optimiser, params: Any) -> Any:
    """What an optimiser keeps from step to step, before the first one."""
    return () if isinstance(optimiser, InTurn) else optimiser.init(params)


def stepped(
    batch_loss: Callable[[Any], Float[Array, ""]], params: Any, memory: Any, optimiser: Optimiser
) -> tuple[Any, Any, Float[Array, ""]]:
    """Parameters, memory of the optimiser, and the loss, after a step on a batch.

    Args:
        batch_loss: `params -> mean loss` of the batch.
        params: what is trained; for `InTurn` the pair `(private, table)`.
        memory: of the optimiser.
        optimiser: of the parameters.
    """
    if not isinstance(optimiser, InTurn):
        loss, gradient = jax.value_and_grad(batch_loss)(params)
        update, memory = optimiser.update(gradient, memory, params)
        return optax.apply_updates(params, update), memory, loss
    private, table = params
    gradient = jax.grad(lambda private: batch_loss((private, table)))(private)
    private = jax.tree.map(lambda x, slope: x - optimiser.lr_private * slope, private, gradient)
    loss, gradient = jax.value_and_grad(lambda table: batch_loss((private, table)))(table)
    return (private, table - optimiser.lr_table * gradient), memory, loss


def run_epochs(
    step: Callable[[Carry, Array, Array], tuple[Carry, Array]],
    carry: Carry,
    samples: ClientSamples,
) -> tuple[Carry, Trained]:
    """Epochs of mini-batches.

    A client stops when |l_e - l_{e-1}| / |l_{e-1} + offset| is below the threshold, from the second
    epoch on. l_e is the mean loss over all epochs so far. It also stops when its time is over.

    Args:
        step: `(carry, row [B], present [B]) -> (carry, mean loss)`: one optimiser step on the
            samples of a batch, named by their compact rows. The last batch of an epoch holds what
            is left.
        carry: what the first step starts from.
        samples: of the client.
    """
    rule, count = samples.rule, samples.count
    width = min(rule.batch_size, samples.row_of.shape[0])
    num_batches = -(-count // width)
    most_batches = loop_bound(num_batches)

    def epoch(loop):
        e, active, carry, total, running, epochs = loop
        visited = samples.order(e, count)

        def batch(b, inner):
            carry, total = inner
            position = b * width + jnp.arange(width, dtype=jnp.int32)
            present = position < count
            row = samples.row_of[visited(jnp.where(present, position, 0))]
            new, loss = step(carry, row, present)
            loss = loss * present.sum()
            if alone():  # the loops end when the client does, so nothing is to be undone
                return new, total + loss
            live = active & (b < num_batches)
            carry = jax.tree.map(lambda new, old: jnp.where(live, new, old), new, carry)
            return carry, total + jnp.where(live, loss, 0.0)

        carry, total = lax.fori_loop(0, most_batches, batch, (carry, total))
        now = total / jnp.maximum((e + 1) * count, 1)
        before = running[e - 1]
        settled = (e > 0) & (jnp.abs(now - before) / jnp.abs(before + rule.offset) < rule.threshold)
        running = running.at[e].set(jnp.where(active, now, jnp.nan))
        ends = settled if samples.epochs is None else settled | (e + 1 >= samples.epochs)
        return e + 1, active & ~ends, carry, total, running, epochs + active

    def unfinished(loop):
        e, active, *_ = loop
        going = loop_bound(active.astype(jnp.int32))
        return (e < rule.local_epochs) & (going > 0)

    start = (
        jnp.int32(0),
        count > 0,
        carry,
        jnp.float32(0),
        jnp.full(rule.local_epochs, jnp.nan),
        jnp.int32(0),
    )
    _, _, carry, _, running, epochs = lax.while_loop(unfinished, epoch, start)
    return carry, Trained(running, running[epochs - 1], epochs)


def batch_weights(
    row: Int[Array, " B"], present: Bool[Array, " B"], num_rows: int
) -> Float[Array, " M"]:
    """Share of a batch's samples that fall on each row of the compact table."""
    samples = jnp.zeros(num_rows).at[row].add(present.astype(jnp.float32))
    return samples / jnp.maximum(present.sum(), 1)


def first_row_weights(
    row: Int[Array, " B"], present: Bool[Array, " B"], num_rows: int
) -> Float[Array, " B"]:
    """Weight of each sample of a batch, such that a row counts where it is met first.

    There it has the share of all its samples. The others add exact zeros, so that no sum depends on
    the order of a scatter.
    """
    position = jnp.arange(row.shape[0], dtype=jnp.int32)
    touched = jnp.where(present, row, num_rows)
    first = jnp.full(num_rows, row.shape[0], jnp.int32).at[touched].min(position, mode="drop")
    share = batch_weights(row, present, num_rows)
    return jnp.where(present & (first[row] == position), share[row], 0.0)


def as_weighed(
    objective: Objective, share: Float[Array, " B"], present: Bool[Array, " B"]
) -> Float[Array, " B"]:
    """The weights that an objective takes, of shares of a batch's samples."""
    return jnp.round(share * present.sum()) if isinstance(objective, LossOfBatch) else share


def loss_of_rows(
    objective: Objective,
    private: Any,
    table: Float[Array, "M D"],
    samples: ClientSamples,
    row: Int[Array, " B"],
    present: Bool[Array, " B"],
) -> Float[Array, ""]:
    """Loss of a batch, from its own rows alone.

    Args:
        objective: loss of rows.
        private: the client's own parameters.
        table: its compact table.
        samples: of the client.
        row, present: those of the batch.
    """
    share = first_row_weights(row, present, len(samples.rows))
    weights = as_weighed(objective, share, present)
    return objective(private, table[row], samples.labels[row], weights)


def loss_of_table(
    objective: Objective,
    private: Any,
    table: Float[Array, "M D"],
    samples: ClientSamples,
    row: Int[Array, " B"],
    present: Bool[Array, " B"],
) -> Float[Array, ""]:
    """The same, with all rows scored where the loss is a sum over them.

    A batch then enters as the share of its samples on each row, so that its gradient is dense: no
    row is gathered or scattered, and every sum has a fixed order. Pairs of all rows would be too
    many, so a `LossOfBatch` gets those of the batch.
    """
    if isinstance(objective, LossOfBatch):
        return loss_of_rows(objective, private, table, samples, row, present)
    return objective(private, table, samples.labels, batch_weights(row, present, len(samples.rows)))


def descend(
    batch_loss: Callable[..., Array],
    params: Any,
    samples: ClientSamples,
    optimiser: Optimiser,
) -> tuple[Any, Trained]:
    """Local epochs of one optimiser step a batch.

    Args:
        batch_loss: `(params, row=[B], present=[B]) -> mean loss` of a batch, by compact rows.
        params: what is trained.
        samples: of the client.
        optimiser: made anew for the round.
    """

    def step(carry, row, present):
        params, memory = carry
        of_batch = partial(batch_loss, row=row, present=present)
        params, memory, loss = stepped(of_batch, params, memory, optimiser)
        return (params, memory), loss

    start = (params, memory_of(optimiser, params))
    (params, _), trained = run_epochs(step, start, samples)
    return params, trained


def fit_embedding(
    objective: Objective,
    private: Any,
    table: Float[Array, "M D"],
    samples: ClientSamples,
    optimiser: Optimiser,
    penalty: Callable[[Float[Array, "M D"]], Float[Array, ""]] | None = None,
) -> tuple[Any, Float[Array, "M D"], Trained]:
    """Train a client's own parameters and its compact table together, by `loss_of_table`.

    The table is held as [D, M] meanwhile, which keeps the long axis contiguous.

    Args:
        objective: loss of rows.
        private: the client's own parameters.
        table: rows of its item table that its samples touch.
        samples: of the client.
        optimiser: of the pair `(private, table)`.
        penalty: of the whole table, added to the loss of every batch.
    """

    def batch_loss(params, row, present):
        private, columns = params
        loss = loss_of_table(objective, private, columns.T, samples, row, present)
        return loss if penalty is None else loss + penalty(columns.T)

    (private, columns), trained = descend(batch_loss, (private, table.T), samples, optimiser)
    return private, columns.T, trained


def fit_network(
    objective: Objective,
    private: Any,
    table: Float[Array, "M D"],
    samples: ClientSamples,
    optimiser: Optimiser,
) -> tuple[Any, Float[Array, "M D"], Trained]:
    """The same as `fit_embedding`, for a client whose rows go through a network.

    The network costs most, so a batch's rows are gathered (`loss_of_rows`).
    """

    def batch_loss(params, row, present):
        private, table = params
        return loss_of_rows(objective, private, table, samples, row, present)

    (private, table), trained = descend(batch_loss, (private, table), samples, optimiser)
    return private, table, trained

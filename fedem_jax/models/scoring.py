"""A backbone as pure functions of its parameters: scores and training loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from fedem_jax.errors import UserError
from fedem_jax.models.losses import BCE
from fedem_jax.models.mf import Scale, item_table
from fedem_jax.models.names import BACKBONES, LOSSES, loaded


class LossOfBatch(NamedTuple):
    """A training loss that is no sum over samples, such as one over pairs: an objective whose
    weights are numbers of samples, and not their shares of the batch."""

    logits: Callable[[Any, Float[Array, "B D"]], Float[Array, " B"]]
    """`(private, rows) -> logits`."""
    loss: Callable[[Array, Array, Array], Array]
    """`(logit, label, weight) -> loss`, [B] each."""

    def __call__(
        self, private: Any, rows: Float[Array, "B D"], labels: Array, weights: Array
    ) -> Float[Array, ""]:
        return self.loss(self.logits(private, rows), labels, weights)


class Scoring(NamedTuple):
    """Scores and training loss of one client."""

    logits: Callable[[Any, Float[Array, "*M D"]], Float[Array, "*M"]]
    """`(private, rows) -> logits`."""
    objective: Callable[..., Float[Array, ""]]
    """`(private, rows [M D], labels [M], weights [M]) -> loss` of a batch: the weighted sum over
    the rows, or a `LossOfBatch`."""


def initial(
    backbone: nn.Module, key: Key[Array, ""], num_items: int, dim: int, scale: Scale
) -> tuple[Any, Float[Array, "I D"]]:
    """Parameters of a backbone that has a `scale`, and an item table, both N(0, scale^2).

    Methods that share a key start from the same numbers. (FedEM draws its adapter by a third key,
    which is split off here and left unused.)

    Args:
        backbone: of one client.
        key: of the run.
        num_items, dim: I, D.
        scale: standard deviation; traced where a sweep varies it.
    """
    key_items, key_private, _ = jax.random.split(key, 3)
    table = item_table(key_items, num_items, dim, scale)
    return backbone.clone(scale=scale).init(key_private, table)["params"], table


def scoring(backbone: nn.Module, bce: str, loss: str) -> Scoring:
    """Scores of a backbone and their loss.

    Args:
        backbone: of one client.
        bce: form of the cross-entropy, a name in `BCE`.
        loss: a name in `LOSSES`.
    """

    def logits(private, rows) -> Float[Array, "*M"]:
        return jnp.asarray(backbone.apply({"params": private}, rows))

    return trained_by(logits, bce, loss)


def trained_by(logits: Callable[..., Array], bce: str, loss: str) -> Scoring:
    """Scores and their loss; `bce` and `loss` as for `scoring`.

    Raises:
        UserError: a registered loss returns something other than one number.
    """
    if loss != "bce":
        of_batch = loaded(LOSSES[loss])
        three = jax.ShapeDtypeStruct((3,), jnp.float32)
        found = jax.eval_shape(of_batch, three, three, three)
        if getattr(found, "shape", None) != ():
            raise UserError(
                f"loss: '{loss}' returns {_kind(found)} for a batch; a loss returns one number, "
                "such as a mean over its samples."
            )
        return Scoring(logits, LossOfBatch(logits, of_batch))
    each = BCE[bce]

    def objective(private, rows, labels, weights):
        return jnp.sum(weights * each(logits(private, rows), labels))

    return Scoring(logits, objective)


def backbone_of(name: str, dim: int) -> nn.Module:
    """A backbone by its name in `BACKBONES`.

    Raises:
        UserError: it is no flax module with a field `scale`, has other variables than parameters,
            or gives no logit for each row.
    """
    backbone, rows = loaded(BACKBONES[name])(dim), jnp.zeros((3, dim))
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "scale"):
        raise UserError(
            f"backbone: '{name}' makes {type(backbone).__name__}, no flax module with a field "
            "`scale`; see help(fj.register_backbone)."
        )
    logits, variables = jax.eval_shape(backbone.init_with_output, jax.random.key(0), rows)
    if list(variables) != ["params"] or getattr(logits, "shape", None) != (3,):
        raise UserError(
            f"backbone: '{name}' has {', '.join(variables) or 'no parameters'} and gives "
            f"{_kind(logits)} for 3 rows; it must have params alone, and give float32[3]."
        )
    return backbone


def numbers_per_row(backbone: nn.Module, dim: int) -> int:
    """Numbers that a backbone computes for a row of D numbers, an upper bound of what it keeps."""
    row = jnp.zeros((1, dim))
    variables = jax.eval_shape(backbone.init, jax.random.key(0), row)
    computed = jax.make_jaxpr(backbone.apply)(variables, row).eqns
    return sum(math.prod(getattr(out.aval, "shape", ())) for eqn in computed for out in eqn.outvars)


def _kind(found: Any) -> str:
    """Type and shape of what a function returns, in words."""
    if not hasattr(found, "shape"):
        return type(found).__name__
    return f"{found.dtype}[{','.join(map(str, found.shape))}]"

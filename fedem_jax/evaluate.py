"""Ranks of the held-out items: every client with the model that it would use."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fedem_jax.base import Algorithm, State
from fedem_jax.clients import Layout


class HeldOut(NamedTuple):
    """What every client is asked after a round; candidates were never interacted with."""

    val_item: Int[Array, " C"]
    test_item: Int[Array, " C"]
    val_candidates: Int[Array, "C K"]
    test_candidates: Int[Array, "C K"] | None
    """None: the same as for validation."""


class Ranks(NamedTuple):
    """Rank of each client's held-out item among its candidates, from 1."""

    val: Float[Array, " C"]
    test: Float[Array, " C"]
    finite: Bool[Array, " C"]
    """False where a score was NaN or infinite: the ranks of that client mean nothing."""


def rank(
    held_out: Float[Array, "*C"], candidates: Float[Array, "*C K"], ties: str
) -> Float[Array, "*C"]:
    """1 + number of candidates that score higher; equal ones count in full (`pessimistic`) or by
    half (`average`). Scores must be finite."""
    higher = jnp.sum(candidates > held_out[..., None], axis=-1)
    equal = jnp.sum(candidates == held_out[..., None], axis=-1)
    return 1.0 + higher + (equal if ties == "pessimistic" else 0.5 * equal)


def rank_all(
    algorithm: Algorithm, layout: Layout, state: State, held_out: HeldOut, hyper: Any,
    *, ties: str, scale: str,
) -> Ranks:  # fmt: skip
    """Ranks of all clients, block after block, every device its own clients.

    `scale` says what is compared: `logit`, or `probability`, float32 as in the released programs,
    where large logits tie at 1.
    """
    num_candidates = held_out.val_candidates.shape[1]

    def on_device(clients, server, held_out):
        def block(ids):
            mine = jax.tree.map(lambda leaf: leaf[ids], held_out)
            asked = [mine.val_item[:, None], mine.test_item[:, None], mine.val_candidates]
            if held_out.test_candidates is not None:
                asked.append(mine.test_candidates)
            scores = algorithm.score(
                State(clients, server), ids, jnp.concatenate(asked, axis=1), hyper
            )
            finite = jnp.isfinite(scores).all(axis=1)
            scores = jax.nn.sigmoid(scores) if scale == "probability" else scores
            val, test = scores[:, 2 : 2 + num_candidates], scores[:, -num_candidates:]
            return Ranks(rank(scores[:, 0], val, ties), rank(scores[:, 1], test, ties), finite)

        num_blocks = -(-layout.shard // layout.block)
        ids = jnp.arange(num_blocks * layout.block, dtype=jnp.int32)
        ids = jnp.minimum(ids, layout.shard - 1).reshape(num_blocks, layout.block)
        ranks = lax.map(block, ids)
        return jax.tree.map(lambda leaf: leaf.reshape(-1)[: layout.shard], ranks)

    return layout.on_each_device(on_device, state.clients, state.server, held_out)

"""Asks the models of chosen clients: for scores, tables, rho and lists.

It works block after block, so no array of all clients by all items is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from fedem_jax.core.algorithm import State
from fedem_jax.core.processes import on_host
from fedem_jax.core.table_storage import from_storage
from fedem_jax.errors import UserError
from fedem_jax.runs.placement import order_on_device
from fedem_jax.runs.simulation import Simulation

AT_ONCE = 64
"""Clients that a device works through in one call at least, a block at a time."""


class Clients:
    """Asks the clients of a simulation; each question is compiled once."""

    def __init__(self, simulation: Simulation):
        self._simulation = simulation
        self._programs: dict[Any, Any] = {}

    def scores(self, state: State, clients: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n I"]:
        """Logits of all items, by the model each client would use."""
        algorithm = self._simulation.algorithm

        def work(state, lists, places, clients):
            return algorithm.score(state, places, algorithm.hyper)

        return self._ask("scores", work, state, clients)

    def top(
        self, state: State, clients: Int[np.ndarray, " n"], k: int, seen: Int[np.ndarray, "n _"]
    ) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
        """The k items of highest score, best first; of equal scores the lower number first.

        Args:
            state: parameters.
            clients: numbers in the federation.
            k: length of the lists, at most I.
            seen: further items that each client leaves out, beside those it trains on, padded with
                I; with no column it leaves none out.

        Returns:
            items and their scores; -inf: the client has no further item.
        """
        algorithm, layout = self._simulation.algorithm, self._simulation.layout
        capacity, num_items = max(size.positives for size in layout.classes), layout.num_items

        def work(state, lists, places, clients, seen):
            scores = algorithm.score(state, places, algorithm.hyper)

            def one(scores, client, seen):
                if seen.shape[0]:
                    items, count = lists.positives(client, capacity)
                    items = jnp.where(jnp.arange(capacity) < count, items, num_items)
                    scores = scores.at[items].set(-jnp.inf, mode="drop")
                    scores = scores.at[seen].set(-jnp.inf, mode="drop")
                best, items = lax.top_k(scores, k)
                return items, best

            return jax.vmap(one)(scores, clients, seen)

        return self._ask(("top", k, seen.shape[1]), work, state, clients, seen)

    def tables(self, state: State, clients: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n I D"]:
        """The item table each client would use.

        Raises:
            UserError: the method has no item tables.
        """
        algorithm, own = self._simulation.algorithm, getattr(state.clients, "items", None)
        tables = algorithm.item_tables
        if tables is None and algorithm.elastic is not None:
            tables = algorithm.elastic.tables
        elif tables is None and not isinstance(own, jax.Array | np.ndarray):
            raise UserError(f"item_table: {self._simulation.config.method} has no item tables.")

        def work(state, lists, places, clients):
            if tables is None:
                return from_storage(state.clients.items[places])
            return tables(state, places, algorithm.hyper)

        return self._ask("tables", work, state, clients)

    def rho(self, state: State, clients: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n I"]:
        """How much of each aggregated row the clients take up; 0 where no table waits.

        Raises:
            UserError: the method merges nothing.
        """
        algorithm = self._simulation.algorithm
        elastic = algorithm.elastic
        if elastic is None:
            method = self._simulation.config.method
            raise UserError(f"rho: {method} merges no tables; methods such as fedem do.")

        def work(state, lists, places, clients):
            return elastic.rho(state, places, algorithm.hyper)

        return self._ask("rho", work, state, clients)

    def _ask(
        self, name: Any, work: Callable[..., Any], state: State, clients: np.ndarray, *each: Any
    ) -> Any:
        """`work(state, lists, places [B], clients [B], *each [B ...])` for these clients, on the
        host and in their order. It is compiled once for each name."""
        layout = self._simulation.layout
        width = min(layout.block, layout.shard)
        turns = -(-AT_ONCE // width)
        chunk = turns * width

        def ask(state, lists, asked):
            def on_device(clients, server, asked):
                def block(asked):
                    return work(State(clients, server), lists, *asked)

                def in_blocks(values):
                    return values.reshape(turns, width, *values.shape[1:])

                found = lax.map(block, jax.tree.map(in_blocks, asked))
                return jax.tree.map(lambda x: x.reshape(chunk, *x.shape[2:]), found)

            return layout.on_each_device(on_device, state.clients, state.server, asked)

        program = self._programs.setdefault(name, jax.jit(ask))
        device, place = np.divmod(layout.place[clients], layout.shard)
        turn = order_on_device(device)
        parts, order = [], []
        for start in range(0, int(turn.max(initial=-1)) + 1, chunk):
            now = np.flatnonzero((start <= turn) & (turn < start + chunk))
            seat = device[now] * chunk + turn[now] - start
            asked = [_seated(values[now], seat, layout.mesh.size * chunk)
                     for values in (place, clients, *each)]  # fmt: skip
            here, asked[0] = self._simulation.brought(state, asked[0])
            with jax.default_matmul_precision("highest"):
                found = program(here, self._simulation.lists, asked)
            parts.append(jax.tree.map(lambda x, seat=seat: x[seat], on_host(found)))
            order.append(now)
        back = np.argsort(np.concatenate(order))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[back], *parts)


def _seated(values: np.ndarray, seat: np.ndarray, seats: int) -> np.ndarray:
    """Values at their seats; 0 elsewhere."""
    seated = np.zeros((seats, *values.shape[1:]), np.int32)
    seated[seat] = values
    return seated

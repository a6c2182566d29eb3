"""A run's state as named arrays on the host, and back onto any number of devices.

Arrays with the client axis first hold the clients in order of place. That order depends on the
number of devices. So does which device holds the table that waits for a client.

`MovedRows` of the host are saved as the arrays that they consist of, such as `clients-items-rows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.layout import Layout, is_per_device
from fedem_jax.core.moved_rows import PARTS, MovedRows
from fedem_jax.core.processes import LocalRows, copied_to_host, is_first, on_all, on_host, several
from fedem_jax.core.sparse_tables import SparseTables, is_sparse

SLOT = "clients-slot"
"""Name of the clients' field that says which of the tables on its device waits for a client."""
AT_ONCE = 256
"""Clients whose rows are copied together, so that not all tables are whole at the same time."""


class Places(NamedTuple):
    """Where the clients of a saved state are."""

    place: Int[np.ndarray, " C"]
    """Place of each client."""
    shard: int
    """Places per device."""

    @classmethod
    def of(cls, layout: Layout) -> Places:
        """The places of a layout."""
        return cls(np.asarray(layout.place), layout.shard)

    def device(self, clients: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Number of the device of each client."""
        return self.place[clients] // self.shard

    def same(self, other: Places) -> bool:
        """Whether all clients have the same places."""
        return self.shard == other.shard and np.array_equal(self.place, other.place)


def by_name(state: State) -> dict[str, Any]:
    """The arrays of a state on the host, by name."""
    return {
        _name(path): leaf if isinstance(leaf, MovedRows) else on_host(leaf)
        for path, leaf in _leaves(state)
    }


def rows_by_name(state: State) -> dict[str, np.ndarray]:
    """The arrays of a state on the host, by name: copies of those on a device, so that the state
    may be donated afterwards.

    Each of several processes has the rows of its own clients. The first also has what all share.
    """
    copies: dict[str, Any] = {}
    for path, leaf in _leaves(state):
        name = _name(path)
        if isinstance(leaf, MovedRows):
            copies |= {f"{name}-{part}": array for part, array in leaf.parts().items()}
        else:
            copies[name] = copied_to_host(leaf) if isinstance(leaf, jax.Array) else leaf
    return {
        name: copy.rows if isinstance(copy, LocalRows) else copy
        for name, copy in copies.items()
        if is_first() or isinstance(copy, LocalRows)
    }


def on_devices(
    arrays: Mapping[str, Any], before: Places, start: State, layout: Layout,
    algorithm: Algorithm,
) -> State:  # fmt: skip
    """A state with these arrays, laid out for this run.

    Args:
        arrays: as `rows_by_name` gave them, those of several processes joined; or as `by_name`
            did. Of several processes, each reads the rows of its own clients alone.
        before: where the clients were then.
        start: the state before the first round. Places without a client take their values from it.
            Those of its arrays that are on the host are overwritten.
        layout: where the clients are now.
        algorithm: the method.

    Raises:
        ValueError: the arrays are not those of such a run.
    """
    now = Places.of(layout)
    names = [_name(path) for path, _ in _leaves(start)]
    for name in names:
        parts = {part: f"{name}-{part}" for part in PARTS}
        if all(part in arrays for part in parts.values()):
            tables = MovedRows.of({part: arrays[of] for part, of in parts.items()})
            arrays = {**arrays, name: tables}
    arrays = {**arrays, **_tables_moved(arrays, before, start, now)}
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{missing[0]} was not kept")
    saved = jax.tree.unflatten(jax.tree.structure(start), [arrays[name] for name in names])
    jax.tree.map(_check_kind, start, saved)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, state) for state in (start, saved)]
    if not before.same(now) or shapes[0] != shapes[1]:
        saved = _moved(saved, before, now, start, algorithm)

    def device(new, values):
        if (values.shape, values.dtype) != (new.shape, new.dtype):
            raise ValueError(f"{values.dtype}{values.shape} for {new.dtype}{new.shape}")
        if isinstance(new, jax.Array):
            return on_all(values if several() else np.asarray(values), new.sharding)
        for some in _batches(len(new)):
            new[some] = values[some]
        return new

    return jax.tree.map(device, start, saved)


def _check_kind(new: Any, old: Any) -> None:
    """Refuse rows of another shape or type, which NumPy might convert without a word."""
    if (old.shape[1:], old.dtype) != (new.shape[1:], new.dtype):
        raise ValueError(f"{old.dtype}{old.shape} for {new.dtype}{new.shape}")


def _moved(saved: State, before: Places, now: Places, start: State, algorithm: Algorithm) -> State:
    """A saved state with every client at its new place; of several processes, each has the rows of
    its own clients."""

    def put(new, old):
        values = copied_to_host(new)
        rows, first = _rows_here(values)
        place = now.place - first
        here = np.flatnonzero((place >= 0) & (place < len(rows)))
        for some in _batches(len(here)):
            rows[place[here[some]]] = old[before.place[here[some]]]
        return values

    def moved(new, old):
        return _rows_moved(new, old, before, now) if is_sparse(new) else put(new, old)

    placed = {id(leaf) for leaf in jax.tree.leaves(algorithm.placed(start.server))}
    clients = jax.tree.map(moved, start.clients, saved.clients, is_leaf=is_sparse)
    server = jax.tree.map(
        lambda new, old: put(new, old) if id(new) in placed else old, start.server, saved.server
    )
    return State(clients, server)


def _rows_moved(new: SparseTables, old: SparseTables, before: Places, now: Places) -> SparseTables:
    """Sparse tables with the rows of every client at its new place.

    A device holds the rows of all its clients in one array, client after client. The size classes
    say for how many rows of a client there is room.

    Raises:
        ValueError: there is less room than the client has rows.
    """
    new = new._replace(start=on_host(new.start), count=on_host(new.count))
    all_items, all_table = copied_to_host(new.items), copied_to_host(new.table)
    (items, first), (table, _) = _rows_here(all_items), _rows_here(all_table)
    unused, room, counts = items.max(), new.count[now.place], old.count[before.place]
    targets = new.first_entries(now.place, now.shard) - first
    sources = old.first_entries(before.place, before.shard)
    for target, source, most, count in zip(targets, sources, room, counts, strict=True):
        if not 0 <= target < len(items):
            continue  # a client of another process
        kept = min(most, count)
        if (old.items[source + kept : source + count] != unused).any():
            raise ValueError("a client keeps more rows than there is room for")
        items[target : target + kept] = old.items[source : source + kept]
        table[target : target + kept] = old.table[source : source + kept]
    return new._replace(items=all_items, table=all_table)


def waiting(
    tables: Any, slots: Int[np.ndarray, " padded"], places: Places, divided: bool
) -> tuple[Int[np.ndarray, " A"], Int[np.ndarray, " A"]]:
    """The clients that a table waits for, and its row among all tables.

    Args:
        tables: all of them, device after device if they are divided.
        slots: row on the device of what waits at each place; negative: nothing.
        places: where the clients are.
        divided: whether each device holds the tables of its own clients alone.
    """
    clients = np.flatnonzero(slots[places.place] >= 0)
    each = len(tables) * places.shard // len(slots) if divided else 0
    return clients, places.device(clients) * each + slots[places.place[clients]]


def _tables_moved(
    arrays: Mapping[str, Any], before: Places, start: State, now: Places
) -> dict[str, Any]:
    """The tables that wait for clients, each on the device of its client, and the clients' slots.

    Every device may also have held all these tables, or hold them now. The arguments are those of
    `on_devices`. The result has only what differs from `arrays`.

    Raises:
        ValueError: more tables wait than there is room for.
    """
    changed: dict[str, Any] = {}
    server = start._replace(clients=())
    for path, leaf in jax.tree_util.tree_flatten_with_path(server, is_leaf=is_per_device)[0]:
        whole, parts = _name(path), f"{_name(path)}-rows"
        divided, was_divided = is_per_device(leaf), parts in arrays
        stay = divided == was_divided and (before.same(now) or not divided)
        if stay or not (was_divided or whole in arrays):
            continue
        old, slots = arrays[parts if was_divided else whole], np.array(arrays[SLOT])
        clients, sources = waiting(old, slots, before, was_divided)
        new, slot, each = leaf, np.arange(len(clients)), 0
        if divided:
            new, slot = leaf.rows, order_on_device(now.device(clients))
            each = len(new) * now.shard // len(start.clients.slot)
        if len(slot) and slot.max() >= (each or len(new)):
            raise ValueError("more tables wait than there is room for")
        values = copied_to_host(new)
        rows, first = _rows_here(values)
        targets = now.device(clients) * each + slot - first
        here = (targets >= 0) & (targets < len(rows))
        rows[targets[here]] = old[sources[here]]
        slots[before.place[clients]] = slot
        changed |= {parts if divided else whole: values, SLOT: slots}
    return changed


def order_on_device(device: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many with the same device come before."""
    order = np.empty_like(device)
    for number in np.unique(device):
        order[device == number] = np.arange((device == number).sum())
    return order


def _batches(number: int) -> Iterator[slice]:
    """So many rows, a few at a time."""
    return (slice(first, first + AT_ONCE) for first in range(0, number, AT_ONCE))


def _rows_here(values: Any) -> tuple[Any, int]:
    """The rows of this process, and the place of the first one among all."""
    return (values.rows, values.first) if isinstance(values, LocalRows) else (values, 0)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="-")

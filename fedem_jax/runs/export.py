"""Writes the parameters of a run as named arrays, for other programs. `docs/library.md` has the
key of each array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.core.algorithm import Algorithm, State
from fedem_jax.core.layout import Layout, PerDevice, is_per_device
from fedem_jax.core.sparse_tables import SparseTables, is_sparse
from fedem_jax.core.table_storage import from_storage
from fedem_jax.errors import UserError
from fedem_jax.runs.placement import Places, waiting
from fedem_jax.runs.result import Result
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.states import Which
from fedem_jax.storage.files import disk_errors, put

FORMATS = ("npz", "safetensors")


def export(result: Result, path: str | Path, format: str = "npz", round: Which = "best") -> Path:
    """Write all parameters of a run, with the labels of its users and items.

    The file is read without executing anything in it: `numpy.load(path)`, or
    `safetensors.numpy.load_file(path)`.

    Args:
        result: the run.
        path: the file.
        format: "npz", or "safetensors" (extra `safetensors`). There the labels and `about` are in
            the metadata, as JSON; in npz they are the arrays `user_ids`, `item_ids` and `about`.
        round: "best" or "last".

    Raises:
        UserError: the format is unknown or its package is missing, the state was not kept, or the
            file cannot be written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise UserError(f"format: '{format}' is unknown; give one of {', '.join(FORMATS)}.")
    arrays = parameters(result.simulation, result.states[round])
    federation, summary = result.federation, result.summary
    about = {name: summary[name] for name in ("method", "dataset", "fingerprint", "seed")}
    about |= {"round": result.states.rounds[round], "versions": summary["versions"]}
    labels = {name: getattr(federation, name) for name in ("user_ids", "item_ids")}
    with disk_errors(path, "give another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if format == "npz":
            text = {
                name: ids.astype(str) if ids.dtype == object else ids
                for name, ids in labels.items()
            }
            put(path, lambda to: _npz(to, arrays | text | {"about": np.array(json.dumps(about))}))
        else:
            text = {name: json.dumps(ids.tolist()) for name, ids in labels.items()}
            _safetensors(path, arrays, text | {"about": json.dumps(about)})
    return path


def parameters(simulation: Simulation, state: State) -> dict[str, np.ndarray]:
    """All parameters by key, such as `clients.private.user`.

    Whatever belongs to clients has them first, in the order of the federation. Tables that are
    stored in bfloat16 are given in float32. Rows that clients keep over a common table are a ragged
    list: those of client u are `items` and `table` from `offsets[u]` to `offsets[u + 1]`.
    """
    layout = simulation.layout
    named: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.clients, is_leaf=is_sparse)[0]:
        if isinstance(leaf, SparseTables):
            parts = ragged(leaf, layout)
        else:
            parts = {"": _number(np.asarray(leaf)[layout.place])}
        for name, values in parts.items():
            named[".".join(filter(None, ("clients", _key(path), name)))] = values
    placed = _placed(simulation.algorithm, state.server)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.server, is_leaf=is_per_device)[0]:
        if is_per_device(leaf):
            values, named["clients.slot"] = in_one(leaf, state.clients.slot, layout)
        else:
            values = np.asarray(leaf)[layout.place] if id(leaf) in placed else np.asarray(leaf)
        named[".".join(filter(None, ("server", _key(path))))] = _number(values)
    return named


def in_one(tables: PerDevice, slots: Any, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The tables that wait on all devices, in order of their clients, and each client's row."""
    rows, slots = np.asarray(tables.rows), np.asarray(slots)
    clients, row = waiting(rows, slots, Places.of(layout), divided=True)
    slot = np.full(layout.num_clients, -1, slots.dtype)
    slot[clients] = np.arange(len(clients))
    return rows[row], slot


def ragged(tables: SparseTables, layout: Layout) -> dict[str, np.ndarray]:
    """Sparse tables as one ragged list over the clients of the federation."""
    _, count, items, table = map(np.asarray, tables)
    table, first = _number(table), tables.first_entries(layout.place, layout.shard)
    used = [
        np.flatnonzero(items[begin : begin + number] < layout.num_items) + begin
        for begin, number in zip(first, count[layout.place], strict=True)
    ]
    offsets, index = np.cumsum([0, *map(len, used)]), np.concatenate(used)
    return {"offsets": offsets, "items": items[index], "table": table[index]}


def _placed(algorithm: Algorithm, server: Any) -> set[int]:
    return {id(leaf) for leaf in jax.tree.leaves(algorithm.placed(server))}


def _key(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _number(values: np.ndarray) -> np.ndarray:
    """The values; a table that holds the bits of bfloat16 in float32."""
    return np.asarray(from_storage(jnp.asarray(values))) if values.dtype == np.uint16 else values


def _npz(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise UserError(
            "format: safetensors needs a package that is missing; `pip install "
            "'fedem_jax[safetensors]'`, or give npz."
        ) from None
    whole = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    put(path, lambda to: save_file(whole, to, metadata))

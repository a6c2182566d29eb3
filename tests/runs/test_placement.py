"""A saved state, laid out for other devices and other size classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.core.processes import LocalRows
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.runs import placement
from fedem_jax.runs.placement import Places, by_name, on_devices
from fedem_jax.runs.simulation import Simulation


def simulation(federation, classes, devices):
    config = config_of("fedmf", evaluated="local", dim=3)
    config = dataclasses.replace(config, size_classes=classes)
    return Simulation(config, federation, jax.devices()[:devices])


def kept_rows(federation, room):
    """Items and rows of each client, at most `room` of them."""
    numbers = np.random.default_rng(0)
    pairs = zip(federation.offsets, federation.offsets[1:], strict=False)
    own = [federation.items[start:end][: room[c]] for c, (start, end) in enumerate(pairs)]
    return own, [numbers.normal(size=(len(items), 3)).astype(np.float32) for items in own]


@pytest.mark.slow_but("3-2")
@pytest.mark.parametrize(("classes", "devices"), [(3, 1), (1, 1), (3, 2), (1, 2)])
def test_rows_of_clients_move_to_other_size_classes(classes, devices):
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    federation = small_federation()
    old, new = simulation(federation, 2, 1), simulation(federation, classes, devices)
    state = old.init()
    tables = state.clients.items
    own, rows = kept_rows(federation, np.asarray(tables.count)[old.layout.place])
    for place, items, table in zip(old.layout.place, own, rows, strict=True):
        tables = tables.scatter(jnp.array([place]), jnp.array([items]), jnp.array([table]))
    state = state._replace(clients=state.clients._replace(items=tables))

    start = new.init()
    moved = on_devices(
        by_name(state), Places.of(old.layout), start, new.layout, new.algorithm
    ).clients.items
    assert moved.items.shape == start.clients.items.items.shape
    per_device = len(moved.items) // devices
    for client, (items, table) in enumerate(zip(own, rows, strict=True)):
        device, place = divmod(int(new.layout.place[client]), new.layout.shard)
        part = SparseTables(
            *(jnp.asarray(x)[device * new.layout.shard :] for x in moved[:2]),
            *(jnp.asarray(x)[device * per_device :] for x in moved[2:]),
        )
        room, number = int(part.count[place]), len(items)
        found, values = map(np.asarray, part.gather(jnp.int32(place), room))
        assert (found[number:] == federation.num_items).all()
        np.testing.assert_array_equal(found[:number], items)
        np.testing.assert_array_equal(values[:number], table)


def test_rows_without_room_are_refused():
    federation = small_federation()
    old, new = simulation(federation, 1, 1), simulation(federation, 4, 1)
    state = old.init()
    tables = state.clients.items
    full = tables._replace(items=jnp.zeros_like(tables.items))
    state = state._replace(clients=state.clients._replace(items=full))
    assert tables.items.shape > new.init().clients.items.items.shape
    with pytest.raises(ValueError, match="keeps more rows than there is room for"):
        on_devices(by_name(state), Places.of(old.layout), new.init(), new.layout, new.algorithm)


def test_rows_of_another_type_are_refused_where_the_clients_move():
    """NumPy would convert them without a word."""
    federation = small_federation()
    old, new = simulation(federation, 2, 1), simulation(federation, 3, 1)
    arrays = by_name(old.init())
    name = next(name for name in arrays if name.endswith("table"))
    arrays[name] = arrays[name].astype(np.float64)
    with pytest.raises(ValueError, match="float64"):
        on_devices(arrays, Places.of(old.layout), new.init(), new.layout, new.algorithm)


class Counted:
    """An array of a checkpoint that counts how many of its rows are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return self[:]

    def __getitem__(self, index):
        found = self.array[index]
        self.rows += len(found)
        return found


def half(array, process):
    """The rows of one of two processes, as `copied_to_host` gives them."""
    rows = LocalRows.__new__(LocalRows)
    middle = len(array) // 2
    rows.shape, rows.dtype, rows.first = array.shape, array.dtype, process * middle
    rows.rows = np.array(array[process * middle :][:middle])
    return rows


@pytest.mark.slow_but("local")
@pytest.mark.parametrize("evaluated", ["local", "global"])
def test_a_process_reads_the_rows_of_its_own_clients(monkeypatch, evaluated):
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    federation = small_federation()
    config = dataclasses.replace(config_of("fedmf", evaluated=evaluated, dim=3), size_classes=1)
    old, new = (Simulation(config, federation, jax.devices()[:each]) for each in (1, 2))
    arrays, start = by_name(old.segment(old.init(), 1)(old.init(), 0).state), new.init()
    before, args = Places.of(old.layout), (start, new.layout, new.algorithm)
    whole = by_name(on_devices(arrays, before, *args))
    clients = {name for name in arrays if name.startswith("clients")}
    tables = {name for name in clients if name.endswith(("items-items", "items-table"))}
    assert bool(tables) == (evaluated == "local")

    monkeypatch.setattr(placement, "several", lambda: True)
    monkeypatch.setattr(placement, "on_all", lambda values, sharding: values)
    own, joined = new.layout.place // new.layout.shard, {name: [] for name in clients}
    for process in range(2):
        divided = {id(leaf) for leaf in jax.tree.leaves(start.clients)}
        monkeypatch.setattr(
            placement,
            "copied_to_host",
            lambda leaf, p=process, d=divided: half(leaf, p) if id(leaf) in d else np.array(leaf),
        )
        counted = {name: Counted(values) for name, values in arrays.items()}
        moved = on_devices(counted, before, *args)
        number = (own == process).sum()
        assert 0 < number < len(own)
        count = arrays["clients-items-count"][before.place[own == process]] if tables else 0
        for path, leaf in jax.tree_util.tree_flatten_with_path(moved.clients)[0]:
            name = "clients-" + jax.tree_util.keystr(path, simple=True, separator="-")
            joined[name].append(leaf)
            if name in tables:
                assert counted[name].rows <= np.sum(count)
            elif not name.endswith(("-start", "-count")):
                assert counted[name].rows == number
    for name, parts in joined.items():
        if isinstance(parts[0], LocalRows):
            values = np.concatenate([part.rows for part in parts])
            np.testing.assert_array_equal(values, whole[name])

"""Some clients at places of their own, and their rows on the way from the host and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import config_of
from toy import small_federation

from fedem_jax.core.host_rows import kept_on_device, put, shapes_of_rows, taken
from fedem_jax.core.residents import Seats, residents_of
from fedem_jax.core.sparse_tables import SparseTables
from fedem_jax.runs.simulation import Simulation


@pytest.fixture(scope="module")
def federation():
    return small_federation(clients=23)


def layout_on(federation, devices):
    config = config_of("fedmf", size_classes=3)
    return Simulation(config, federation, jax.devices()[:devices]).layout


@pytest.mark.parametrize("devices", [1, 2])
def test_every_resident_has_one_place_and_is_in_its_size_class(federation, devices):
    layout, numbers = layout_on(federation, devices), np.random.default_rng(0)
    seats, before = Seats(layout, 4), None
    class_of = {
        int(client): number
        for number, size in enumerate(layout.classes)
        for device, members in enumerate(size.members)
        for client in layout.client[members[members < layout.shard] + device * layout.shard]
    }
    for _ in range(20):
        clients = numbers.permutation(23)[: 4 * devices - 1]
        residents = seats.of(clients, before)
        present = residents.client < layout.nobody
        assert sorted(residents.client[present]) == sorted(clients)
        own = residents_of(layout, residents)
        np.testing.assert_array_equal(residents.client[np.asarray(own.place)[clients]], clients)
        absent = np.setdiff1d(np.arange(23), clients)
        assert (np.asarray(own.place)[absent] == 4 * devices).all()
        samples = layout.samples[layout.place[residents.client[present]]]
        np.testing.assert_array_equal(residents.samples[present], samples)
        found = {}
        for number, size in enumerate(own.classes):
            for device, members in enumerate(size.members):
                there = residents.client[members[members < 4] + device * 4]
                found |= {int(client): number for client in there}
        assert found == {int(client): class_of[int(client)] for client in clients}
        if before is not None:
            at = {int(client): place for place, client in enumerate(before.client)}
            for place, was in enumerate(seats.kept(residents, before)):
                client, device = int(residents.client[place]), place // 4
                stayed = client < layout.nobody and client in at
                assert (was < 4) == stayed
                assert not stayed or at[client] == was + 4 * device
        before = residents


def everybody(layout, numbers):
    """Rows of all clients, dense and over a common table."""
    sparse = SparseTables.empty(layout, 3, np.float32, np)
    sparse = sparse._replace(
        items=numbers.integers(0, layout.num_items, sparse.items.shape).astype(np.int32),
        table=numbers.normal(size=sparse.table.shape).astype(np.float32),
    )
    dense = numbers.normal(size=(layout.padded, 5, 2)).astype(np.float32)
    return {"dense": dense, "sparse": sparse}


def rows_of(clients, place, layout):
    """A client's own rows over the common table."""
    sparse, (device, _) = clients["sparse"], divmod(place, layout.shard)
    first = device * (len(sparse.items) // layout.mesh.size) + sparse.start[place]
    return first, first + sparse.count[place]


@pytest.mark.parametrize("devices", [1, 2])
def test_rows_come_and_go_unchanged(federation, devices):
    layout, numbers = layout_on(federation, devices), np.random.default_rng(0)
    clients = everybody(layout, numbers)
    places = np.append(layout.place[[4, 0, 17, 9, 22]], layout.padded)
    rows = taken(clients, places, layout)
    shapes = shapes_of_rows(clients, 6, layout)
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (rows, shapes))
    assert kinds[0] == kinds[1]
    room = len(rows["sparse"].items) // 6
    for number, place in enumerate(places[:-1]):
        np.testing.assert_array_equal(rows["dense"][number], clients["dense"][place])
        first, end = rows_of(clients, place, layout)
        own = slice(number * room, number * room + end - first)
        np.testing.assert_array_equal(rows["sparse"].items[own], clients["sparse"].items[first:end])
        np.testing.assert_array_equal(rows["sparse"].table[own], clients["sparse"].table[first:end])

    doubled = jax.tree.map(lambda leaf: leaf * 2, rows)
    after = jax.tree.map(np.copy, clients)
    put(after, places, doubled, layout)
    factor = np.ones(layout.padded)
    factor[places[:-1]] = 2
    np.testing.assert_array_equal(after["dense"], clients["dense"] * factor[:, None, None])
    of_entry = np.ones(len(clients["sparse"].items), int)
    for place in places[:-1]:
        of_entry[slice(*rows_of(clients, place, layout))] = 2
    np.testing.assert_array_equal(after["sparse"].items, clients["sparse"].items * of_entry)
    np.testing.assert_array_equal(
        after["sparse"].table, clients["sparse"].table * of_entry[:, None]
    )
    np.testing.assert_array_equal(after["sparse"].start, clients["sparse"].start)


def test_rows_of_clients_that_stay_are_those_on_the_device(federation):
    layout, numbers = layout_on(federation, 1), np.random.default_rng(0)
    old, new = (everybody(layout, numbers) for _ in range(2))
    before = jax.tree.map(jnp.asarray, taken(old, np.array([3, 8, 5, 1]), layout))
    places, place = np.array([5, 2, 8, 7]), np.array([2, 4, 1, 4])
    kept = kept_on_device(
        jax.tree.map(jnp.asarray, taken(new, places, layout)), before, jnp.asarray(place)
    )
    expected = jax.tree.map(np.copy, new)
    put(expected, np.array([5, 8]), taken(old, np.array([5, 8]), layout), layout)
    jax.tree.map(np.testing.assert_array_equal, kept, taken(expected, places, layout))

"""Size classes, blocks and ragged lists: every client is worked on once, whatever the cut."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedem_jax.config.protocol import preset
from fedem_jax.core.blocks import for_each_block
from fedem_jax.core.lists import lists_on_device
from fedem_jax.core.size_classes import (
    LITTLE_PADDING,
    MOST_CLASSES,
    ClientLoad,
    best_capacities,
    lay_out,
    size_classes,
)
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic


@pytest.fixture(scope="module")
def federation():
    interactions, _ = synthetic(23, 60, 2, (4, 50), seed=3)
    protocol = preset("leak-free", num_candidates=4, min_interactions=3)
    return split(interactions, protocol, seed=0, name="small")


def layout_of(federation, devices=1, **settings):
    settings = {"num_classes": 3, "block": 2} | settings
    return lay_out(federation, need_of(federation), devices=jax.devices()[:devices], **settings)


def named_layout(federation, devices):
    """For any number of devices: where nothing is computed on them, names will do."""
    names = [f"device {number}" for number in range(devices)]
    return lay_out(federation, need_of(federation), devices=names, num_classes=3, block=2)


def need_of(federation):
    return ClientLoad.of(federation, num_negative=2, batch_size=8)


# --- size classes ---------------------------------------------------------------------------------


def total(needs, steps, capacities):
    """Steps times the rows of the class that each client falls into."""
    return sum(
        taken * min(c for c in capacities if c >= need)
        for need, taken in zip(needs, steps, strict=True)
    )


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_capacities_are_the_cheapest_of_all(most):
    rng = np.random.default_rng(most)
    for _ in range(30):
        needs = np.rint(rng.lognormal(2, 1, rng.integers(1, 25))).astype(int) + 1
        steps = rng.integers(1, 6, len(needs))
        distinct = np.unique(needs)
        sets = itertools.chain.from_iterable(
            itertools.combinations(distinct[:-1], k) for k in range(min(most, len(distinct)))
        )
        cheapest = min(total(needs, steps, [*some, distinct[-1]]) for some in sets)
        capacities = best_capacities(needs, steps, most)
        assert len(capacities) <= most
        assert (np.diff(capacities) > 0).all()
        assert total(needs, steps, capacities) == cheapest


def test_no_more_classes_than_it_takes():
    rng = np.random.default_rng(0)
    needs, steps = rng.integers(1, 200, 60), rng.integers(1, 6, 60)
    costs = [total(needs, steps, best_capacities(needs, steps, most)) for most in range(1, 8)]
    assert costs == sorted(set(costs), reverse=True)
    for most, cost in enumerate(costs, 1):
        assert len(best_capacities(needs, steps, 7, float(cost))) == most
        assert len(best_capacities(needs, steps, 7, cost - 1.0)) == min(most + 1, 7)


def test_classes_end_where_there_is_little_padding(federation):
    need = need_of(federation)
    layout = layout_of(federation, num_classes=0)
    assert 1 < len(layout.classes) < MOST_CLASSES

    def padding(most):
        classes = size_classes(federation, need, layout, most)
        rows = np.array([size.rows for size in classes])
        rows = rows[np.searchsorted(rows, need.rows)]
        return (need.steps @ rows) / (need.steps @ need.touched)

    assert padding(len(layout.classes)) <= LITTLE_PADDING < padding(len(layout.classes) - 1)


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 4])
def test_classes_hold_each_client_once(federation, devices, most):
    sizes, barred = np.diff(federation.offsets), np.diff(federation.barred_offsets)
    layout, need = named_layout(federation, devices), need_of(federation)
    shard, classes = layout.shard, size_classes(federation, need, layout, most)
    assert 1 <= len(classes) <= most
    seen = []
    for size_class in classes:
        for device, members in enumerate(size_class.members):
            own = layout.client[members[members < shard] + device * shard]
            assert (members[len(own) :] == shard).all()  # room at the end
            assert (np.diff(need.steps[own]) >= 0).all()
            assert need.rows[own].max(initial=0) <= size_class.rows
            assert sizes[own].max(initial=0) <= size_class.positives
            assert barred[own].max(initial=0) <= size_class.barred
            seen.extend(own)
    assert sorted(seen) == list(range(federation.num_clients))


def test_a_row_for_each_known_item_and_each_negative():
    """Clients with repeated positives, and one whose samples may touch every item."""
    interactions = Interactions.of(
        np.repeat([0, 1], [9, 36]),
        np.concatenate([[40, 1, 40, 1, 40, 1, 37, 38, 39], np.arange(36)]),
        order="item-appearance",
    )
    federation = split(interactions, preset("paper", min_interactions=3, num_candidates=4), 0, "x")
    need = ClientLoad.of(federation, num_negative=3, batch_size=10)
    first, second = (federation.train_items(client) for client in range(2))
    assert len(np.unique(first)) < len(first)
    assert list(need.rows) == [len(np.unique(first)) + 3 * len(first), federation.num_items]
    assert list(need.steps) == [-(-4 * len(first) // 10), -(-4 * len(second) // 10)]


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_devices_are_dealt_even_work(federation, devices):
    layout, need = named_layout(federation, devices), need_of(federation)
    client = layout.client.reshape(devices, -1)
    work = [int(need.steps[own[own < layout.nobody]].sum()) for own in client]
    assert max(work) - min(work) <= need.steps.max()
    for own in client:  # in order, and room at the end
        assert (np.diff(own[own < layout.nobody]) > 0).all()
        assert (own[(own < layout.nobody).sum() :] == layout.nobody).all()
    np.testing.assert_array_equal(layout.client[layout.place], np.arange(federation.num_clients))
    values = np.arange(federation.num_clients) + 1
    spread = layout.spread(values)
    np.testing.assert_array_equal(spread[layout.place], values)
    assert spread.sum() == values.sum()


def test_one_device_keeps_the_order_of_the_federation(federation):
    layout = layout_of(federation)
    np.testing.assert_array_equal(layout.place, np.arange(federation.num_clients))


def test_the_last_device_is_filled_up(federation):
    layout = layout_of(federation, devices=len(jax.devices()))
    assert layout.padded % len(jax.devices()) == 0
    assert federation.num_clients <= layout.padded < federation.num_clients + len(jax.devices())
    assert len(layout.coarse) <= 2 < len(layout.classes)


# --- ragged lists ---------------------------------------------------------------------------------


def test_lists_are_those_of_the_federation_at_any_room(federation):
    layout = layout_of(federation, devices=len(jax.devices()))
    lists = lists_on_device(federation, layout)
    most = layout.classes[-1].positives, max(c.barred for c in layout.classes)
    read = jax.jit(lambda u: (lists.positives(u, most[0]), lists.barred_items(u, most[1])))
    for client in range(federation.num_clients):
        expected = federation.train_items(client), federation.barred_items(client)
        for (values, count), own in zip(read(client), expected, strict=True):
            np.testing.assert_array_equal(values[:count], own)
    for client in range(federation.num_clients, layout.padded + 2):
        assert [count for _, count in read(client)] == [0, 0]  # nobody's lists are empty


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 8, 40])
def test_blocks_visit_the_chosen_clients_once(federation, block):
    layout = layout_of(federation, block=block)
    sizes = np.diff(federation.offsets)

    def visit(size_class, clients, carry):
        visits, room, blocks = carry
        assert len(clients) <= block
        return (
            visits.at[clients].add(1, mode="drop"),
            room.at[clients].set(size_class.positives, mode="drop"),
            blocks + 1,
        )

    @jax.jit
    def run(chosen):
        nothing = jnp.zeros(layout.shard, int)
        members = [jnp.asarray(c.members) for c in layout.classes]
        carry = nothing, nothing, 0
        return for_each_block(visit, carry, chosen, layout.classes, members, layout)

    rng = np.random.default_rng(0)
    for share in (0, 0.04, 0.5, 1):
        chosen = rng.random(layout.shard) < share
        visits, room, blocks = run(jnp.asarray(chosen))
        np.testing.assert_array_equal(visits, chosen)
        assert (np.asarray(room)[chosen] >= sizes[chosen]).all()
        of_class = [chosen[c.members].sum() for c in layout.classes]
        widths = [layout.width(c.members.shape[1]) for c in layout.classes]
        expected = (-(-number // width) for number, width in zip(of_class, widths, strict=True))
        assert blocks == sum(expected)


def test_blocks_of_a_class_are_even(federation):
    layout = layout_of(federation, block=8)
    assert [layout.width(places) for places in (1, 8, 9, 16, 17)] == [1, 8, 5, 8, 6]


def test_work_on_each_device_sees_its_own_clients(federation):
    layout = layout_of(federation, devices=len(jax.devices()))
    clients = jnp.arange(layout.padded)

    def work(own, server, members):
        assert own.shape == (layout.shard,)
        assert members.shape[0] == 1
        return own * server, members

    members = jnp.asarray(layout.classes[0].members)
    doubled, same = layout.on_each_device(work, clients, jnp.int32(2), members)
    np.testing.assert_array_equal(doubled, 2 * np.arange(layout.padded))
    np.testing.assert_array_equal(same, members)

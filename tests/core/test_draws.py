"""Draws of a round: who takes part, which negatives, in which order. Seeds are fixed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedem_jax.core.draws import HoldOut, KeyedDraws
from fedem_jax.core.lists import Lists
from fedem_jax.core.sampling import distinct_ranks, is_held_out, items_outside, shuffle, without

NUM_ITEMS, NUM_NEGATIVE = 23, 3
POSITIVES = [[5, 2, 9], [0], [22, 1, 7, 3, 4, 5, 6, 11], [8, 8], [0]]
BARRED = [[2, 5, 9, 22], [0], list(range(20)), [7, 8], [0]]
"""The third has a pool of 3; the second and the last are alike."""


def flat(lists, room):
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    return offsets, np.concatenate([*lists, np.zeros(room)]).astype(np.int32)


LISTS = Lists(*map(jnp.asarray, (*flat(POSITIVES, 30), *flat(BARRED, 30))))


def fresh(key=0, number=0, participants=5, aggregated=2, clients=5):
    key = jax.random.key(key) if isinstance(key, int) else key
    sizes = (clients, NUM_ITEMS, NUM_NEGATIVE, participants, aggregated)
    return KeyedDraws.of_round(key, jnp.int32(number), LISTS, *sizes)


def chi_square(counts, expected):
    """(X^2 - mean) / standard deviation, which is nearly normal for many cells."""
    counts = np.ravel(counts)
    cells = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - cells) / np.sqrt(2 * cells)


def samples_of(draws, client, *capacities):
    """One client's samples, compiled: many small operations are slow one by one."""
    arrays, sizes = draws[:6], draws[6:]
    return _samples(arrays, client, sizes, capacities)


@partial(jax.jit, static_argnums=(2, 3))
def _samples(arrays, client, sizes, capacities):
    return KeyedDraws(*arrays, *sizes).samples(client, *capacities)


# --- samples --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_samples():
    """Items drawn for each client in 4000 rounds, [rounds, positives, 1 + negatives]."""

    @jax.jit
    def draw(keys, client):
        return jax.vmap(lambda key: fresh(key).samples(client, 8, 20).items)(keys)

    keys = jax.random.split(jax.random.key(7), 4000)
    items = [np.asarray(draw(keys, client)).reshape(4000, 8, -1) for client in range(5)]
    return [drawn[:, : len(own)] for drawn, own in zip(items, POSITIVES, strict=True)]


def test_each_positive_is_followed_by_its_negatives():
    samples = samples_of(fresh(), 0, 5, 20)
    assert samples.count == 3 * (1 + NUM_NEGATIVE)
    items, labels = (x.reshape(5, -1)[:3] for x in (samples.items, samples.labels))
    np.testing.assert_array_equal(items[:, 0], POSITIVES[0])
    np.testing.assert_array_equal(labels, [[1, 0, 0, 0]] * 3)


@pytest.mark.parametrize("client", range(5))
def test_negatives_are_distinct_uniform_and_never_barred(many_samples, client):
    items, pool = many_samples[client], np.setdiff1d(np.arange(NUM_ITEMS), BARRED[client])
    np.testing.assert_array_equal(items[..., 0], np.tile(POSITIVES[client], (4000, 1)))
    negatives = items[..., 1:]
    assert (np.diff(np.sort(negatives), axis=-1) > 0).all()
    counts = np.stack([np.bincount(negatives[..., j].ravel(), minlength=NUM_ITEMS)
                       for j in range(NUM_NEGATIVE)])  # fmt: skip
    assert counts[:, BARRED[client]].sum() == 0
    expected = negatives[..., 0].size / len(pool)
    for of_place in counts:  # the first, second and third negative alike
        assert abs(chi_square(of_place[pool], expected)) < 4


def test_a_pool_as_large_as_the_draw_is_drawn_whole(many_samples):
    assert (np.sort(many_samples[2][..., 1:]) == [20, 21, 22]).all()


def test_negatives_of_different_positives_rounds_and_clients_are_independent(many_samples):
    pool, negative = NUM_ITEMS - len(BARRED[0]), many_samples[0][..., 1]
    alike = [
        (negative[:, 0] == negative[:, 1], pool),
        (negative[:-1] == negative[1:], pool),
        (many_samples[1][..., 1] == many_samples[4][..., 1], NUM_ITEMS - 1),
    ]
    for equal, pool in alike:
        assert abs(equal.mean() - 1 / pool) < 4 * (1 / pool / equal.size) ** 0.5


# --- positives that are held out ------------------------------------------------------------------

HALF = HoldOut(0.5)


def held_of(client, share=0.5):
    """Which positives of a client are held out."""
    own = POSITIVES[client]
    return np.asarray(is_held_out(jnp.int32(client), jnp.asarray(own), share))


@pytest.fixture(scope="module")
def part_held_out():
    """(items [rounds, positives, 1 + negatives], held out [positives]) of the third client, by
    whether its held-out positives are drawn as negatives."""
    keys = jax.random.split(jax.random.key(8), 4000)

    def draw(hold_out):
        @jax.jit
        def of_rounds(keys):
            return jax.vmap(lambda key: fresh(key).samples(jnp.int32(2), 8, 20, hold_out)[::3])(
                keys
            )

        items, held = map(np.asarray, of_rounds(keys))
        held = held.reshape(4000, 8, -1)
        assert (held == held[:1, :, :1]).all()  # whole groups, the same ones in every round
        return items.reshape(4000, 8, -1), held[0, :, 0]

    return {unseen: draw(HoldOut(0.5, unseen)) for unseen in (False, True)}


def test_a_held_out_positive_is_drawn_as_often_as_any_other_untrained_item(part_held_out):
    items, held = part_held_out[False]
    assert 2 <= held.sum() <= 6
    out = np.array(POSITIVES[2])[held]
    untrained = np.concatenate([out, [20, 21, 22]])  # of the barred 20, only its positives go
    drawn = np.bincount(items[:, ~held, 1:].ravel(), minlength=NUM_ITEMS)
    assert drawn[np.setdiff1d(np.arange(NUM_ITEMS), untrained)].sum() == 0
    expected = drawn.sum() / len(untrained)
    deviation = np.sqrt(expected * (1 - NUM_NEGATIVE / len(untrained)))  # drawn or not in a group
    assert (np.abs(drawn[untrained] - expected) < 4 * deviation).all()
    assert (np.sort(items[:, held, 1:]) == [20, 21, 22]).all()  # they have negatives as before


def test_held_out_positives_that_are_never_drawn_leave_the_draws_as_they_were(part_held_out):
    items, held = part_held_out[True]
    np.testing.assert_array_equal(held, part_held_out[False][1])
    assert (np.sort(items[..., 1:]) == [20, 21, 22]).all()


def test_positives_are_held_out_by_client_and_item_in_the_share_that_is_asked_for():
    everyone, items = jnp.arange(50), jnp.arange(40)
    flags = {
        share: np.asarray(jax.vmap(lambda u, share=share: is_held_out(u, items, share))(everyone))
        for share in (0.0, 0.3, 0.9)
    }
    assert not flags[0.0].any()
    for share in (0.3, 0.9):
        assert flags[share].mean() == pytest.approx(share, abs=0.04)
        for axis in (0, 1):  # no client and no item is like the others
            assert 0 < flags[share].mean(axis).std() < 0.2
    assert (flags[0.3] <= flags[0.9]).all()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(
        is_held_out(jnp.int32(3), items[order], 0.3), flags[0.3][3, order]
    )


def test_a_repeated_positive_is_held_out_each_time():
    assert len(set(held_of(3))) == 1
    samples = samples_of(fresh(), 3, 5, 20, HoldOut(0.9999))
    assert samples.held_out[:8].all()
    assert held_of(3, 0.9999).all()


@pytest.mark.parametrize("client", range(5))
def test_more_room_changes_no_draw_with_held_out_positives(client):
    small = samples_of(fresh(), client, len(POSITIVES[client]), len(BARRED[client]), HALF)
    large = samples_of(fresh(), client, 13, 27, HALF)
    for name in ("items", "held_out"):
        places = len(getattr(small, name))
        np.testing.assert_array_equal(getattr(large, name)[:places], getattr(small, name))


@pytest.mark.parametrize("removed", [[], [-1, 5], [2, 22, 9], [5, 5, -1], [2, 5, 9, 22], [7, 0]])
def test_values_leave_a_sorted_list(removed):
    padded = jnp.array([*BARRED[0], 7, 0, 5], jnp.int32)  # what comes after it is another's
    left, count = without(padded, jnp.int32(4), jnp.array(removed, jnp.int32))
    expected = np.setdiff1d(BARRED[0], removed)
    assert count == len(expected)
    np.testing.assert_array_equal(left[: int(count)], expected)


# --- room and other clients -----------------------------------------------------------------------


@pytest.mark.parametrize("client", [0, 3])
def test_more_room_changes_no_draw(client):
    small = samples_of(fresh(), client, len(POSITIVES[client]), len(BARRED[client]))
    large = samples_of(fresh(), client, 13, 27)
    assert small.count == large.count
    for name in ("items", "labels"):
        places = len(getattr(small, name))
        np.testing.assert_array_equal(getattr(large, name)[:places], getattr(small, name))


def test_draws_of_a_client_do_not_depend_on_the_others():
    """Its key is that of its number alone: more clients, other lists, other participants."""
    others = Lists(*map(jnp.asarray, (*flat([[1], [0], POSITIVES[2]], 30),
                                      *flat([[3, 4], [9], BARRED[2]], 30))))  # fmt: skip
    key = jax.random.key(0)
    wider = KeyedDraws.of_round(key, jnp.int32(0), others, 3, NUM_ITEMS, NUM_NEGATIVE, 2, 1)
    for ours, theirs in zip(
        samples_of(fresh(), 2, 8, 20), samples_of(wider, 2, 8, 20), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_all_draws_change_with_the_round_and_the_seed():
    position = jnp.arange(60)

    @jax.jit
    def everything(seed, number):
        draws = fresh(jax.random.key(seed), number)
        many = draws._replace(num_clients=60, num_participants=30, num_uploaders=20)
        samples, order = draws.samples(0, 3, 20), draws.order(1, 0, jnp.int32(60))(position)
        return samples.items, order, many.participants(), many.uploaders(position)

    base, again = everything(0, 0), everything(0, 0)
    for other in (everything(0, 1), everything(1, 0)):
        for x, y, z in zip(base, again, other, strict=True):
            np.testing.assert_array_equal(x, y)
            assert (np.asarray(x) != np.asarray(z)).any()


@pytest.mark.parametrize("pool", [4, 5, 9])
def test_distinct_ranks_are_a_uniform_draw_without_replacement(pool):
    ranks = np.asarray(distinct_ranks(jax.random.key(3), 60_000, 4, jnp.uint32(pool)))
    assert ranks.max() == pool - 1
    assert (np.diff(np.sort(ranks)) > 0).all()
    ordered = np.unique(ranks, axis=0, return_counts=True)[1]
    cells = pool * (pool - 1) * (pool - 2) * (pool - 3)
    assert len(ordered) == cells
    assert abs(chi_square(ordered, len(ranks) / cells)) < 4


@pytest.mark.parametrize("barred", [[], [0], [6], [0, 1, 2], [4, 5, 6], [1, 3, 5], [0, 6]])
def test_items_outside_counts_the_missing_ones(barred):
    padded = jnp.array([*barred, 0, 2, 1], jnp.int32)  # what follows the list is not sorted
    missing = np.setdiff1d(np.arange(7), barred)
    ranks = jnp.arange(len(missing), dtype=jnp.uint32)
    np.testing.assert_array_equal(items_outside(padded, jnp.int32(len(barred)), ranks), missing)


# --- order ----------------------------------------------------------------------------------------


@jax.jit
def orders(keys, places, count):
    """Image of the first positions under one permutation for each key."""
    return jax.vmap(lambda key: shuffle(key, count)(places))(keys)


def many_orders(count, number, seed=5):
    return np.asarray(orders(jax.random.split(jax.random.key(seed), number),
                             jnp.arange(count, dtype=jnp.int32), jnp.int32(count)))  # fmt: skip


def test_an_order_visits_each_sample_once():
    counts = [*range(1, 41), 255, 256, 257, 300, 511, 512, 513, 640]
    places, key = jnp.arange(640, dtype=jnp.int32), jax.random.key(1)
    order = jax.jit(lambda count: shuffle(key, count)(places))
    for count in counts:
        visited = np.asarray(order(jnp.int32(count)))[:count]
        np.testing.assert_array_equal(np.sort(visited), np.arange(count), err_msg=f"{count}")


def test_positions_may_be_asked_for_in_any_part():
    key, count = jax.random.key(2), jnp.int32(100)
    images = shuffle(key, count)
    whole = images(jnp.arange(100))
    parts = [images(jnp.arange(start, start + 30) % 100) for start in (0, 30, 60)]
    np.testing.assert_array_equal(jnp.concatenate(parts), whole[:90])


def test_all_permutations_of_few_samples_are_equally_likely():
    seen = np.unique(many_orders(4, 24_000), axis=0, return_counts=True)[1]
    assert len(seen) == 24
    assert abs(chi_square(seen, 1000)) < 4


def test_a_sample_is_visited_at_any_position_alike():
    count, number = 40, 20_000
    order = many_orders(count, number)
    at = np.stack([np.bincount(column, minlength=count) for column in order.T])
    # 2^-12 of the epochs leave an element in its place: 40 / 4096 of the expected count, well below
    # the deviation of a single cell
    assert abs(chi_square(at, number / count)) < 4
    deviation = (at - number / count) / np.sqrt(number / count)
    assert np.abs(deviation).max() < 5


def test_two_samples_share_a_batch_as_often_as_chance_has_it():
    count, batch, number = 300, 64, 2000
    batch_of = np.argsort(many_orders(count, number), axis=1) // batch
    sizes = np.bincount(np.arange(count) // batch)
    rate = (sizes * (sizes - 1)).sum() / (count * (count - 1))
    sample = np.arange(count)
    error = (rate * (1 - rate) / number) ** 0.5
    for other in (sample ^ 1, sample[::-1], (sample + count // 2) % count, (sample + 64) % count):
        together = (batch_of == batch_of[:, other]).mean(0)
        assert np.abs(together - rate).max() < 4.8 * error  # of 300 pairs
        assert abs(together.mean() - rate) < 4 * error / (count / 2) ** 0.5


def test_each_epoch_and_client_has_an_order_of_its_own():
    @jax.jit
    def order(number, client, epoch):
        return fresh(number=number).order(client, epoch, jnp.int32(50))(jnp.arange(50))

    seen = np.array([order(*which) for which in np.ndindex(2, 3, 3)])
    alike = (seen[:, None] == seen).mean(2)
    assert alike[~np.eye(18, dtype=bool)].max() < 0.2


# --- participants ---------------------------------------------------------------------------------


def test_participants_are_distinct_and_all_clients_alike():
    @jax.jit
    @jax.vmap
    def draw(key):
        draws = fresh(key, participants=6, aggregated=2, clients=20)
        participants = draws.participants()
        return participants, draws.uploaders(participants)

    participants, chosen = map(np.asarray, draw(jax.random.split(jax.random.key(4), 5000)))
    assert participants.shape == (5000, 6)
    assert chosen.shape == (5000, 2)
    for drawn, share in ((participants, 6 / 20), (chosen, 2 / 20)):
        assert (np.diff(np.sort(drawn), axis=1) > 0).all()
        counts = np.bincount(drawn.ravel(), minlength=20)
        assert len(counts) == 20
        assert np.abs(counts / 5000 - share).max() < 4 * (share * (1 - share) / 5000) ** 0.5
    assert (chosen[:, :, None] == participants[:, None, :]).any(2).all()


def test_with_a_fraction_of_one_everybody_takes_part():
    everybody = fresh(aggregated=5)
    np.testing.assert_array_equal(everybody.participants(), np.arange(5))
    chosen = everybody.uploaders(everybody.participants())
    np.testing.assert_array_equal(np.sort(chosen), np.arange(5))


# --- local epochs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.25, 1.0])
def test_a_part_of_the_epochs_is_drawn_from_all_parts_alike(chance):
    most, number = 5, 4000

    @jax.jit
    @jax.vmap
    def draw(key):
        draws = fresh(key)
        return jnp.stack([draws.epochs(client, most, chance) for client in range(3)])

    drawn = np.asarray(draw(jax.random.split(jax.random.key(8), number)))
    assert set(np.unique(drawn)) == set(range(1, most + (chance < 1)))
    for client in range(3):
        part = drawn[:, client] < most
        assert abs(part.mean() - chance) <= 4 * (chance * (1 - chance) / number) ** 0.5
        counts = np.bincount(drawn[part, client], minlength=most)[1:]
        assert abs(chi_square(counts, part.sum() / (most - 1))) < 4
    correlation = np.corrcoef(drawn.T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / number**0.5


# --- direction of a principal axis ----------------------------------------------------------------


def test_an_axis_points_to_where_its_largest_component_is_positive():
    axes = jnp.float32([[0.1, -0.9, 0.3], [0.5, 0.4, -0.2], [-0.5, 0.5, 0.1]])
    signs = fresh().signs(axes, jnp.ones((3, 7)))
    np.testing.assert_array_equal(signs, [-1, 1, -1])  # of equal components the first decides
    np.testing.assert_array_equal(fresh().signs(-axes, jnp.ones((3, 7))), -signs)

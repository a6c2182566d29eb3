"""Tables on the host that keep the rows that were moved: they are read like an array of tables."""

import numpy as np
import pytest

from fedem_jax.core.moved_rows import MovedRows

ITEMS, DIM, CLIENTS = 7, 3, 5


def first_table(dtype):
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, (ITEMS, DIM)).astype(dtype)


@pytest.fixture(params=["float32", "uint16"])
def tables(request):
    """Moved rows, and the same in an array of whole tables."""
    first, rng = first_table(request.param), np.random.default_rng(1)
    kept, whole = MovedRows(first, CLIENTS), np.repeat(first[None], CLIENTS, axis=0)
    for places in ([1, 3], [3, 4]):
        new = whole[places]
        moved = rng.random(new.shape[:2]) < 0.4
        new[moved] += 1
        new[1, 0] = first[0]  # a row that is as it was at first
        whole[places] = kept[np.array(places)] = new
    return kept, whole


def test_what_is_read_is_what_was_written(tables):
    kept, whole = tables
    assert (kept.shape, kept.dtype, len(kept)) == (whole.shape, whole.dtype, CLIENTS)
    np.testing.assert_array_equal(np.asarray(kept), whole)
    places = np.array([4, 0, 3, 3])
    np.testing.assert_array_equal(kept[places], whole[places])
    np.testing.assert_array_equal(kept[1:4, 2:5, :1], whole[1:4, 2:5, :1])
    assert kept[np.array([], int)].shape == (0, ITEMS, DIM)


def test_moved_rows_alone_take_memory(tables):
    kept, whole = tables
    moved = (whole != kept.first).any(axis=2).sum()
    assert 0 < moved < CLIENTS * ITEMS / 2
    row = DIM * whole.dtype.itemsize
    assert kept.nbytes == ITEMS * row + moved * (row + 4)


def test_they_are_saved_as_arrays_and_restored(tables):
    kept, whole = tables
    restored = MovedRows.of(kept.parts())
    np.testing.assert_array_equal(np.asarray(restored), whole)
    restored[:] = whole[::-1]
    np.testing.assert_array_equal(np.asarray(restored), whole[::-1])


def test_a_copy_stays(tables):
    kept, whole = tables
    copy = kept.copy()
    kept[:] = kept.first
    assert kept.nbytes == kept.first.nbytes
    np.testing.assert_array_equal(np.asarray(copy), whole)
    copy[np.array([0])] = whole[:1] + 1
    np.testing.assert_array_equal(np.asarray(kept)[0], kept.first)


def test_what_is_written_may_change_afterwards():
    kept, new = MovedRows(first_table("float32"), 2), np.ones((1, ITEMS, DIM), np.float32)
    kept[np.array([1])] = new
    new[:] = 2
    assert (kept[np.array([1])] == 1).all()


def test_rows_are_compared_by_their_bits():
    first = np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32)
    kept = MovedRows(first, 1)
    kept[:] = first
    assert kept.nbytes == first.nbytes
    kept[:] = np.where(first == 0, np.float32(-0.0), first)
    assert np.signbit(np.asarray(kept)[0, 0, 0])
    assert kept.nbytes == first.nbytes + 8 + 4

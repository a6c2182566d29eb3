"""Local training: batches, the early stop, and clients of different length side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import twin
from plain_losses import PLAIN

from fedem_jax.client.local import batch_weights, fit_embedding, run_epochs
from fedem_jax.core.blocks import BLOCK
from fedem_jax.core.draws import HoldOut, Samples
from fedem_jax.core.layout import SizeClass
from fedem_jax.core.samples import ClientSamples, Rule, client_samples
from fedem_jax.models.losses import logit_bce
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import scoring

NUM_ITEMS, EPOCHS = 12, 4


def in_order(epoch, count):
    return lambda position: position


# --- epochs ---------------------------------------------------------------------------------------

COUNTS = np.array([5, 5, 2, 0, 4, 4])
"""Samples of the clients, in batches of 2: 2 + 2 + 1, the same, 2, nothing, 2 + 2, 2 + 2."""
LOSSES = np.float32(
    [
        [4, 2, 6, 1, 1, 1, 0.5, 0.5, 0.5, 9, 9, 9],
        [3, 3, 3, 3, 3, 3, 7, 7, 7, 7, 7, 7],  # does not change: stops after the second epoch
        [8, 4, 5.9, 1, 0, 0, 0, 0, 0, 0, 0, 0],  # 8, 6, 5.967: stops after the third
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1],  # starts from a loss of zero
        [0, 0, 1e-6, 1e-6, 0, 0, 0, 0, 1, 1, 1, 1],  # 1e-5 is added to losses near zero
    ]
)
"""Loss of each step."""
RUNNING = [
    [18 / 5, 23 / 10, 25.5 / 15, 70.5 / 20],
    [3, 3],
    [8, 6, 17.9 / 3],
    [],
    [0, 1 / 2, 1 / 3, 1 / 4],
    [0, 1e-6 / 2, 1e-6 / 3, 1e-6 / 4],
]
"""Mean loss of all samples so far, after each epoch, by hand."""


def train(clients, most=None):
    """Steps that each client took, and what `run_epochs` says; these clients side by side. They
    have time for `most` epochs."""

    def one(losses, count, most):
        session = ClientSamples(
            rows=jnp.arange(6), labels=jnp.zeros(6), row_of=jnp.arange(6), count=count,
            order=in_order, rule=Rule(2, EPOCHS, jnp.float32(0.01)), epochs=most,
        )  # fmt: skip

        def step(carry, row, present):
            steps, samples = carry
            return (steps + 1, samples + present.sum()), losses[steps]

        return run_epochs(step, (jnp.int32(0), jnp.int32(0)), session)

    mapped = jax.jit(jax.vmap(one, axis_name=BLOCK))
    most = None if most is None else jnp.asarray(most)
    return jax.tree.map(
        np.asarray, mapped(jnp.asarray(LOSSES[clients]), jnp.asarray(COUNTS[clients]), most)
    )


@pytest.fixture(scope="module")
def side_by_side():
    return train(np.arange(6))


@pytest.mark.parametrize("client", range(6))
def test_epochs_run_until_the_running_loss_settles(side_by_side, client):
    (steps, samples), trained = jax.tree.map(lambda leaf: leaf[client], side_by_side)
    epochs = len(RUNNING[client])
    assert trained.epochs == epochs
    assert steps == epochs * -(-COUNTS[client] // 2)  # nothing moves after the stop
    assert samples == epochs * COUNTS[client]
    np.testing.assert_allclose(trained.running[:epochs], RUNNING[client], rtol=1e-6)
    assert np.isnan(trained.running[epochs:]).all()
    np.testing.assert_equal(trained.loss, trained.running[epochs - 1])


def test_a_client_without_time_for_all_epochs_stops_before(side_by_side):
    """Unless it has stopped by itself."""
    most = np.array([1, 3, 2, 1, EPOCHS, 3])
    (steps, _), trained = train(np.arange(6), most)
    expected = np.minimum(most, [len(losses) for losses in RUNNING])
    np.testing.assert_array_equal(trained.epochs, expected)
    np.testing.assert_array_equal(steps, expected * -(-COUNTS // 2))
    for client, epochs in enumerate(expected):
        seen = trained.running[client]
        np.testing.assert_array_equal(seen[:epochs], side_by_side[1].running[client, :epochs])
        assert np.isnan(seen[epochs:]).all()
        if epochs:
            assert trained.loss[client] == seen[epochs - 1]


def test_the_neighbours_do_not_matter(side_by_side):
    for clients in ([0], [2], [3], [3, 1], [4, 2, 0]):
        for ours, theirs in zip(
            jax.tree.leaves(train(clients)), jax.tree.leaves(side_by_side), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs[clients])


# --- the compact table ----------------------------------------------------------------------------


class Listed:
    """Draws of clients whose samples are written down; the places after them hold anything."""

    def __init__(self, items, labels, orders):
        self.count, self.held_out = jnp.array([len(own) for own in items]), None
        rng = np.random.default_rng(9)
        junk = rng.integers(0, NUM_ITEMS, (2, len(items), 24))
        for u, own in enumerate(items):
            junk[:, u, : len(own)] = own, labels[u]
        self.items, self.labels = jnp.asarray(junk[0]), jnp.float32(junk[1] > 0)
        self.visits = np.zeros((len(items), EPOCHS, 24), int)
        for u, own in enumerate(orders):
            self.visits[u, :, : len(items[u])] = own
        self.visits = jnp.asarray(self.visits)

    def participants(self):
        raise NotImplementedError

    def samples(self, client, capacity, barred_capacity, hold_out=None):
        held_out = None if hold_out is None else self.held_out[client, :capacity]
        items, labels = self.items[client, :capacity], self.labels[client, :capacity]
        return Samples(items, labels, self.count[client], held_out)

    def order(self, client, epoch, count):
        return lambda position: self.visits[client, epoch, position]

    def epochs(self, client, most, stragglers):
        raise NotImplementedError

    def uploaders(self, participants):
        raise NotImplementedError

    def server(self):
        raise NotImplementedError

    def signs(self, axes, scores):
        raise NotImplementedError


ITEMS = [[3, 7, 3, 9, 1, 7, 4], [5, 0, 2], [8, 11, 6, 8, 1, 0, 10, 3, 6]]
LABELS = [[1, 0, 1, 0, 1, 0, 0], [1, 0, 0], [1, 0, 0, 1, 0, 0, 1, 0, 0]]
DRAWS = Listed(
    ITEMS, LABELS, [np.random.default_rng(u).permuted([range(len(own))] * EPOCHS, axis=1)
                    for u, own in enumerate(ITEMS)],
)  # fmt: skip
LENGTHS = [9, 11, 12, 20]
"""Places for samples; the table is compact in the first two."""


def session_of(client, length, batch=2, threshold=0.0):
    """With `length` places for samples; the draws take that as a number of positives."""
    rule = Rule(batch, EPOCHS, jnp.float32(threshold))
    size = SizeClass(length, 0, length, np.zeros((1, 0), int))
    return client_samples(DRAWS, jnp.asarray(client), size, NUM_ITEMS, rule)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("client", range(3))
def test_every_touched_item_has_one_row(client, length):
    session, items = session_of(client, length), np.array(ITEMS[client])
    rows, row_of = np.asarray(session.rows), np.asarray(session.row_of)[: len(items)]
    np.testing.assert_array_equal(rows[row_of], items)
    np.testing.assert_array_equal(session.labels[row_of], LABELS[client])
    used = rows[rows < NUM_ITEMS]
    assert len(rows) == min(length, NUM_ITEMS)
    assert (rows[len(used) :] == NUM_ITEMS).all() or length >= NUM_ITEMS
    np.testing.assert_array_equal(np.sort(used), np.unique(items) if length < 12 else np.arange(12))
    assert session.labels.sum() == len(np.unique(items[np.array(LABELS[client]) == 1]))


# --- held-out samples -----------------------------------------------------------------------------


def parts_with(held_out, length):
    """A client's samples of local training and its held-out ones, over the same rows."""
    draws = Listed([[3, 7, 9, 7, 3, 1, 4, 9, 5]], [[1, 0, 0, 1, 0, 0, 1, 0, 0]], [range(9)])
    draws.held_out = jnp.pad(jnp.array([held_out], bool), ((0, 0), (0, 15)), constant_values=True)
    rule = Rule(2, 1, jnp.float32(0), hold_out=HoldOut(0.5))
    size = SizeClass(length, 0, length, np.zeros((1, 0), int))
    samples = client_samples(draws, jnp.int32(0), size, NUM_ITEMS, rule)
    return samples, samples.held_out


@pytest.mark.parametrize("length", [9, 20])
def test_held_out_samples_have_labels_of_their_own(length):
    """Item 7 is a negative of local training and a held-out positive; 3 is the other way round."""
    trained, aside = parts_with([0, 0, 0, 1, 1, 1, 0, 0, 0], length)
    for part, items, labels in (
        (trained, [3, 7, 9, 4, 9, 5], [1, 0, 0, 1, 0, 0]),
        (aside, [7, 3, 1], [1, 0, 0]),
    ):
        row_of = np.asarray(part.row_of)[: int(part.count)]
        np.testing.assert_array_equal(np.asarray(part.rows)[row_of], items)
        np.testing.assert_array_equal(np.asarray(part.labels)[row_of], labels)
        assert part.labels.sum() == sum(labels)
    np.testing.assert_array_equal(trained.rows, aside.rows)
    assert aside.held_out is None


@pytest.mark.parametrize("all_or_none", [False, True])
def test_a_client_may_hold_out_nothing_or_everything(all_or_none):
    trained, aside = parts_with([all_or_none] * 9, 9)
    assert (trained.count, aside.count) == ((0, 9) if all_or_none else (9, 0))


# --- batches --------------------------------------------------------------------------------------


def test_weights_of_a_batch_are_shares_of_its_samples():
    row, present = jnp.array([2, 0, 2, 4, 1]), jnp.array([True, True, True, True, False])
    np.testing.assert_array_equal(batch_weights(row, present, 5), [0.25, 0, 0.5, 0, 0.25])
    np.testing.assert_array_equal(batch_weights(row, jnp.zeros(5, bool), 5), np.zeros(5))


# --- one client against the twin ------------------------------------------------------------------

START = np.random.default_rng(4).normal(size=(NUM_ITEMS + 1, 3))
CLOSE = 2e-5
"""The correction of Adam's second moment, 1 - 0.999^t, is off by 5e-5 of itself in float32, so each
of up to 20 steps of 0.05 is off by 1e-6."""
TABLE, USER = START[:NUM_ITEMS], START[NUM_ITEMS]


def objective(user, rows, labels, weights):
    return jnp.sum(weights * logit_bce(rows @ user, labels))


def fitted(clients, length, **settings):
    """User vectors, whole tables and `Trained` of clients side by side."""

    def one(client):
        session, table = session_of(client, length, **settings), jnp.float32(TABLE)
        user, rows, trained = fit_embedding(
            objective, jnp.float32(USER), table[session.rows], session, optax.adam(0.05)
        )
        return user, table.at[session.rows].set(rows, mode="drop"), trained

    return jax.jit(jax.vmap(one, axis_name=BLOCK))(jnp.array(clients))


def expected(client, batch=2, threshold=0.0):
    return twin.local_train(
        USER, TABLE, None, [], np.array(ITEMS[client]), np.array(LABELS[client]),
        np.asarray(DRAWS.visits)[client, :, : len(ITEMS[client])], batch_size=batch,
        lr_embedding=0.05, lr_adapter=0.0, threshold=threshold, bce="logit",
    )  # fmt: skip


@pytest.mark.parametrize(("length", "batch", "threshold"), [(9, 2, 0.0), (20, 4, 0.12)])
def test_clients_side_by_side_are_trained_as_one_by_one(length, batch, threshold):
    """A step that is masked leaves parameters, moments and step count as they were: otherwise the
    next epoch of the shorter clients would differ."""
    rule = {"batch": batch, "threshold": threshold}
    theirs = [expected(client, **rule) for client in range(3)]
    for clients in ([0, 1, 2], [2]):
        users, tables, trained = fitted(clients, length, **rule)
        for at, client in enumerate(clients):
            np.testing.assert_allclose(users[at], theirs[client].user, atol=CLOSE)
            np.testing.assert_allclose(tables[at], theirs[client].table, atol=CLOSE)
            assert trained.epochs[at] == theirs[client].epochs
            running = theirs[client].running_loss
            running = np.where(running == twin.ABSENT, np.nan, running)
            np.testing.assert_allclose(trained.running[at], running, atol=CLOSE)
    if threshold:  # some of them stop, at different times
        assert len({client.epochs for client in theirs}) > 1


def expected_by(name, client, batch, lr):
    """User vector, table and running loss by plain steps on a loss of a batch, sample by sample."""
    user, table, total, running = USER.copy(), TABLE.copy(), 0.0, []
    items, labels = np.array(ITEMS[client]), np.array(LABELS[client])
    for order in np.asarray(DRAWS.visits)[client, :, : len(items)]:
        for first in range(0, len(items), batch):
            visited = order[first : first + batch]
            rows = table[items[visited]]
            loss, slope = PLAIN[name](rows @ user, labels[visited])
            np.add.at(table, items[visited], -lr * np.outer(slope, user))
            user, total = user - lr * slope @ rows, total + loss * len(visited)
        running.append(total / (len(items) * (len(running) + 1)))
    return user, table, running


@pytest.mark.parametrize("name", PLAIN)
def test_a_loss_of_a_batch_trains_as_a_loop_over_its_samples(name):
    """Batches of 4, with items that are met twice, and some without a positive."""
    objective, lr = scoring(MF(3), "logit", name).objective, 0.2

    def one(client):
        samples, table = session_of(client, 9, batch=4), jnp.float32(TABLE)
        private, rows, trained = fit_embedding(
            objective, {"user": jnp.float32(USER)}, table[samples.rows], samples, optax.sgd(lr)
        )
        return private["user"], table.at[samples.rows].set(rows, mode="drop"), trained.running

    found = jax.jit(jax.vmap(one, axis_name=BLOCK))(jnp.arange(3))
    for client in range(3):
        for ours, theirs in zip(found, expected_by(name, client, 4, lr), strict=True):
            np.testing.assert_allclose(ours[client], theirs, atol=1e-5)


@pytest.mark.parametrize("length", [9, 20])
def test_rows_without_a_sample_do_not_move_at_all(length):
    _, tables, _ = fitted([0, 1, 2], length)
    for table, items in zip(np.asarray(tables), ITEMS, strict=True):
        still = np.setdiff1d(np.arange(NUM_ITEMS), items)
        np.testing.assert_array_equal(table[still], np.float32(TABLE)[still])
        assert (table[items] != np.float32(TABLE)[items]).all()


def test_one_batch_that_holds_everything_needs_no_order():
    """The order of the samples in a batch is immaterial, so none is drawn."""
    (user,), (table,), _ = fitted([0], 9, batch=9)
    theirs = expected(0, batch=9)
    np.testing.assert_allclose(user, theirs.user, atol=CLOSE)
    np.testing.assert_allclose(table, theirs.table, atol=CLOSE)

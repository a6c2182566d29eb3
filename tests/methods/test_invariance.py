"""Neither the numbers of the clients nor the cut of the work change what a method computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lab import Lab, assert_same, config_of, own, waiting_tables
from toy import permuted

from fedem_jax.core.draws import KeyedDraws
from fedem_jax.core.layout import is_per_device
from fedem_jax.runs.simulation import Simulation


class Renumbered:
    """The draws of the same clients under other numbers."""

    def __init__(self, inner: KeyedDraws, old: np.ndarray):
        self.inner, self.new = inner, jnp.asarray(np.argsort(old))
        self.old = jnp.append(jnp.asarray(old), len(old))  # beyond the last client there is nobody

    def participants(self):
        return self.new[self.inner.participants()]

    def samples(self, client, capacity, barred_capacity, *hold_out):
        return self.inner.samples(self.old[client], capacity, barred_capacity, *hold_out)

    def order(self, client, epoch, count):
        return self.inner.order(self.old[client], epoch, count)

    def epochs(self, client, most, stragglers):
        return self.inner.epochs(self.old[client], most, stragglers)

    def uploaders(self, participants):
        return self.new[self.inner.uploaders(self.old[participants])]

    def server(self):
        return self.inner.server()

    def signs(self, axes, scores):
        return self.inner.signs(axes, scores)


ORDER = np.array([3, 0, 6, 2, 5, 1, 4])


@pytest.mark.slow_but("fedem")
def test_neither_numbers_of_clients_nor_the_cut_of_the_work_change_anything(lab, method, result):
    """Where all data lie in one place, batches are drawn from all of them, in an order that depends
    on the numbers of the clients."""
    order = np.arange(7) if method == "central-mf" else ORDER
    # the server of central-mf knows the clients by their places
    check_renumbered(lab, result, order, {}, same_server=method != "central-mf")


PIECES = {
    "all": {
        "merging": "once", "aggregation": "avg", "adapter": "features", "adapter_loss": "ranking",
        "adapter_samples": "held-out", "adapter_sharing": "average", "local_optimiser": "sgd",
        "lr_item_factor": 1.0, "ldp_clip": 5.0, "server_optimiser": "adam", "lr_server": 0.01,
    },
    "shrinkage": {"merging": "shrinkage"},
    "one average": {
        "merging": "replace", "aggregation": "avg", "client_fraction": 1.0,
        "aggregation_fraction": 1.0, "local_optimiser": "closed-form", "local_epochs": 1,
    },
}  # fmt: skip
"""FedEM with parts that go beyond the paper."""


@pytest.mark.slow
@pytest.mark.parametrize("pieces", PIECES)
def test_neither_changes_the_pieces_beyond_the_paper(pieces):
    lab = Lab(config_of("fedem", **PIECES[pieces]))
    check_renumbered(lab, lab.run(), ORDER, PIECES[pieces])


REALISTIC = {
    "failing clients": {
        "dropout": 0.4, "stragglers": 0.5, "evaluated": "local", "threshold": 0.0,
    },
    "masks": {"secure_sum": True},
}  # fmt: skip
"""FedMF with clients that fail, or that mask what they send."""


@pytest.mark.slow
@pytest.mark.parametrize("case", REALISTIC)
def test_neither_changes_who_fails_or_what_masks_hide(case):
    lab = Lab(config_of("fedmf", **REALISTIC[case]))
    check_renumbered(lab, lab.run(), ORDER, REALISTIC[case])


def check_renumbered(lab, result, order, changes, same_server=True):
    """Seven clients do not fill two devices, nor blocks of three: the rest is padding. Sums over
    the clients are taken in another order, hence the tolerance.

    Args:
        lab: one client after the other, on one device.
        result: of its run.
        order: of the same clients in the other run.
        changes: to the settings of both.
        same_server: whether the server keeps the same numbers in both.
    """
    if len(jax.devices()) < 2:
        pytest.skip("needs 2 devices")
    lists = lab.simulation.lists

    class Permuted(Simulation):
        def draws(self, key, number, _):
            return Renumbered(lab.simulation.draws(key, number, lists), order)

    federation = permuted(lab.simulation.federation, order)
    config = config_of(lab.simulation.config.method, block_size=3, **changes)
    other = Lab(config, 2, federation, Permuted)
    layout = other.simulation.layout
    assert layout.padded == 8
    state, info, ranks = other.run()
    at = layout.place[np.argsort(order)]  # place of each client, by its old number

    def real(tree, axis=0):
        return jax.tree.map(lambda leaf: np.take(leaf, at, axis), tree)

    assert_same(real(ranks), result[2])
    assert_same(real(info, axis=1), result[1], atol=1e-5)
    assert_same(real(own(state.clients)), own(result[0].clients), atol=1e-4)
    if is_per_device(state.server.items):
        same_server = False
        ours, theirs = (
            waiting_tables(layout, state),
            waiting_tables(lab.simulation.layout, result[0]),
        )
        assert_same({order[client]: table for client, table in ours.items()}, theirs, atol=1e-4)
    if same_server:
        assert_same(state.server, result[0].server, atol=1e-4)
    nobody = int(np.flatnonzero(layout.client == layout.nobody)[0])
    for start, end in zip(jax.tree.leaves(own(other.start.clients)),
                          jax.tree.leaves(own(state.clients)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(end[nobody], start[nobody])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.slow
def test_size_classes_change_nothing(labs, classes):
    other = Lab(config_of("local-only", size_classes=classes))
    assert len(other.simulation.layout.classes) == classes
    theirs = labs("local-only").run()
    state, info, ranks = other.run()
    assert_same(ranks, theirs[2])
    assert_same(info, theirs[1], atol=1e-5)
    assert_same(state, theirs[0], atol=1e-4)

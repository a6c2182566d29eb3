"""The fused kernel, interpreted, against local training by XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gpu_check import pallas_on_h100
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import small_federation

from fedem_jax.client import fitting, fused
from fedem_jax.client.fused import SLOPES, Adam, Products, fit_fused, rows_visited
from fedem_jax.client.fused_merging import fit_merging
from fedem_jax.client.kernel import CHUNK
from fedem_jax.client.local import InTurn, fit_embedding
from fedem_jax.client.merging import fit_elastic
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.config.settings import FedMF
from fedem_jax.core.blocks import BLOCK
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.core.sampling import shuffle
from fedem_jax.errors import UserError
from fedem_jax.models.adapter import Adapter
from fedem_jax.models.losses import BCE
from fedem_jax.models.mf import MF
from fedem_jax.models.scoring import scoring
from fedem_jax.runs.simulation import Simulation
from fedem_jax.runs.train import run
from fedem_jax.sweeps.stack import Stack

CLOSE = 1e-5


def samples_of(row_of, labels, count, client, batch, epochs, threshold) -> ClientSamples:
    """Samples of one client, visited in an order that the epoch and the client set."""

    def order(epoch, count):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), client), epoch)
        return shuffle(key, count)

    rule = Rule(batch, epochs, jnp.float32(threshold))
    rows = jnp.arange(labels.shape[0], dtype=jnp.int32)
    return ClientSamples(rows, labels, row_of, count, order, rule)


def both(
    counts, num_rows, dim, batch, epochs=2, threshold=0.0, loss="probability", steps="adam",
    time=None,
):  # fmt: skip
    """What both paths make of clients side by side: user vectors, tables, `Trained`. They have time
    for `time` epochs."""
    numbers = np.random.default_rng(3)
    clients, longest = len(counts), max(*counts, 1)
    row_of = jnp.int32(numbers.integers(0, num_rows, (clients, longest)))
    labels = jnp.float32(numbers.random((clients, num_rows)) < 0.4)
    users = jnp.float32(numbers.normal(size=(clients, dim)))
    tables = jnp.float32(numbers.normal(size=(clients, num_rows, dim)))
    in_turn = InTurn(jnp.float32(0.1), jnp.float32(0.7))

    def objective(user, rows, labels, weights):
        return jnp.sum(weights * BCE[loss](rows @ user, labels))

    def xla(samples, user, table):
        optimiser = optax.adam(0.05) if steps == "adam" else in_turn
        return fit_embedding(objective, user, table, samples, optimiser)

    def fused(samples, user, table):
        optimiser = Adam(jnp.float32(0.05)) if steps == "adam" else in_turn
        scores = Products(loss)
        _, *ends = fit_fused(scores, (), user, table, None, samples, optimiser, interpret=True)
        return ends

    def train(fit):
        def one(client, row_of, labels, count, user, table, time):
            samples = samples_of(row_of, labels, count, client, batch, epochs, threshold)
            return fit(samples._replace(epochs=time), user, table)

        mapped = jax.jit(jax.vmap(one, axis_name=BLOCK))
        most = None if time is None else jnp.int32(time)
        return mapped(jnp.arange(clients), row_of, labels, jnp.int32(counts), users, tables, most)

    return train(xla), train(fused)


def assert_equal(xla, fused):
    (user, table, trained), (fused_user, fused_table, fused_trained) = xla, fused
    np.testing.assert_allclose(fused_user, user, atol=CLOSE)
    np.testing.assert_allclose(fused_table, table, atol=CLOSE)
    np.testing.assert_array_equal(fused_trained.epochs, trained.epochs)
    np.testing.assert_allclose(fused_trained.running, trained.running, rtol=CLOSE)
    np.testing.assert_allclose(fused_trained.loss, trained.loss, rtol=CLOSE)


@pytest.mark.parametrize("steps", ["adam", "in turn"])
@pytest.mark.parametrize("loss", list(SLOPES))
def test_clients_side_by_side_end_where_xla_takes_them(loss, steps):
    """Partial batches, no samples, and six rows that a batch of eight must meet twice."""
    xla, fused = both([21, 0, 8, 3], 6, 8, batch=8, loss=loss, steps=steps)
    assert_equal(xla, fused)
    assert np.asarray(xla[2].epochs).tolist() == [2, 0, 2, 2]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(CHUNK - 1, marks=pytest.mark.slow),
        CHUNK,
        CHUNK + 1,
        pytest.param(2 * CHUNK + 1, marks=pytest.mark.slow),
    ],
)
def test_rows_are_brought_up_to_date_around_a_whole_chunk(steps):
    """Most of forty rows are idle at a step of two samples."""
    assert_equal(*both([2 * steps, 2 * steps - 1], 40, 8, batch=2))


@pytest.mark.slow_but("adam")
@pytest.mark.parametrize("steps", ["adam", "in turn"])
def test_clients_stop_early_in_the_same_epoch(steps):
    xla, fused = both([12, 9, 30], 10, 8, batch=4, epochs=6, threshold=0.2, steps=steps)
    assert_equal(xla, fused)
    assert min(xla[2].epochs) < 6


@pytest.mark.parametrize("steps", ["adam", "in turn"])
def test_clients_without_time_for_all_epochs_stop_before(steps):
    xla, fused = both([12, 9, 30], 10, 8, batch=4, epochs=3, steps=steps, time=[1, 3, 2])
    assert_equal(xla, fused)
    assert xla[2].epochs.tolist() == [1, 3, 2]


@pytest.fixture
def in_parts(monkeypatch):
    """Parts of 16 places, as a batch of 256 has them at width 256."""
    monkeypatch.setattr(fused, "CELLS", 16 * 16)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("steps", ["adam", "in turn"])
def test_a_batch_may_be_worked_on_in_parts(steps):
    """Of 40 places, the last part in part; most of the 30 rows are met in several of them."""
    assert_equal(*both([61, 0, 40, 3], 30, 8, batch=40, steps=steps))


@pytest.mark.parametrize("dim", [12, pytest.param(16, marks=pytest.mark.slow), 64])
def test_a_width_that_is_no_power_of_two_is_padded(dim):
    assert_equal(*both([11], 7, dim, batch=5))


def both_merging(
    counts, num_rows, dim, batch, epochs=2, threshold=0.0, widths=(16, 8), steps="adam", scale=1.0
):
    """What both paths make of clients that merge batch by batch."""
    numbers = np.random.default_rng(4)
    clients, longest = len(counts), max(*counts, 1)
    row_of = jnp.int32(numbers.integers(0, num_rows, (clients, longest)))
    labels = jnp.float32(numbers.random((clients, num_rows)) < 0.4)
    users = jnp.float32(numbers.normal(size=(clients, dim)))
    tables, targets = jnp.float32(numbers.normal(size=(2, clients, num_rows, dim)))
    keys, net = jax.random.split(jax.random.key(6), clients), Adapter(widths)
    adapters = jax.vmap(lambda key: net.init(key, tables[0], targets[0])["params"])(keys)
    adapters = jax.tree.map(lambda leaf: scale * leaf, adapters)
    model, rate = scoring(MF(dim), "probability", "bce"), jnp.float32(0.03)
    in_turn = InTurn(jnp.float32(0.1), jnp.float32(0.7))

    def rho_of(adapter, local, target, evidence):
        return net.apply({"params": adapter}, local, target)

    def xla(samples, adapter, user, table, target):
        embed = optax.adam(0.05) if steps == "adam" else in_turn
        adapter, private, table, trained = fit_elastic(
            model.objective, model.objective, rho_of, adapter, {"user": user}, table, target,
            samples, optax.flatten(optax.adam(rate)), embed,
        )  # fmt: skip
        return adapter, private["user"], table, trained

    def fused(samples, adapter, user, table, target):
        embed = Adam(jnp.float32(0.05)) if steps == "adam" else in_turn
        return fit_merging(
            "probability", adapter, rate, user, table, target, samples, embed, interpret=True
        )

    def train(fit):
        def one(client, row_of, labels, count, *params):
            samples = samples_of(row_of, labels, count, client, batch, epochs, threshold)
            return fit(samples, *params)

        mapped = jax.jit(jax.vmap(one, axis_name=BLOCK))
        given = jnp.arange(clients), row_of, labels, jnp.int32(counts)
        return mapped(*given, adapters, users, tables, targets)

    with jax.default_matmul_precision("highest"):
        return train(xla), train(fused)


@pytest.mark.parametrize("steps", ["adam", "in turn"])
@pytest.mark.parametrize("widths", [(16, 8), (20,)], ids=str)
@pytest.mark.slow_but("(16, 8)-adam")
def test_clients_that_merge_batch_by_batch_end_where_xla_takes_them(widths, steps):
    xla, fused = both_merging([21, 0, 8, 3], 30, 12, batch=8, widths=widths, steps=steps)
    assert_equal(xla[1:], fused[1:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=CLOSE), xla[0], fused[0])


@pytest.mark.usefixtures("in_parts")
@pytest.mark.slow_but("adam")
@pytest.mark.parametrize("steps", ["adam", "in turn"])
def test_clients_may_merge_in_parts_of_a_batch(steps):
    xla, fused = both_merging([61, 0, 40, 3], 30, 12, batch=40, steps=steps)
    assert_equal(xla[1:], fused[1:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=CLOSE), xla[0], fused[0])


@pytest.mark.slow
def test_a_weight_that_saturates_has_no_slope():
    """rho is 0 or 1 to the last bit, and e^-x overflows, for outputs beyond 100."""
    xla, fused = both_merging([21, 8], 30, 8, batch=8, scale=50.0)
    assert_equal(xla[1:], fused[1:])


def test_clients_that_merge_stop_early_in_the_same_epoch():
    xla, fused = both_merging([12, 9, 30], 10, 8, batch=4, epochs=6, threshold=0.2)
    assert_equal(xla[1:], fused[1:])
    assert min(xla[3].epochs) < 6


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(
    counts=st.lists(st.integers(0, 25), min_size=2, max_size=3),
    num_rows=st.integers(1, 30),
    batch=st.integers(1, 9),
)
def test_any_shape(counts, num_rows, batch):
    assert_equal(*both(counts, num_rows, 8, batch))


def test_a_step_visits_the_rows_of_its_samples_and_then_the_spare_one():
    row_of, labels = jnp.int32([2, 2, 0, 2, 1]), jnp.zeros(3)
    samples = samples_of(row_of, labels, jnp.int32(5), 0, 4, 1, 0.0)
    samples = samples._replace(order=lambda epoch, count: lambda position: position)
    visited = rows_visited(samples, 4, 4, spare=3)
    assert visited.tolist() == [2, 2, 0, 2, 1, 3, 3, 3]


def lowered(one, *args) -> str:
    """The program of four clients, lowered for a GPU."""
    traced = jax.jit(jax.vmap(one)).trace(*(jnp.ones((4, *shape)) for shape in args))
    with pallas_on_h100():
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def some_samples() -> ClientSamples:
    row_of = jnp.arange(40, dtype=jnp.int32) % 30
    return samples_of(row_of, jnp.ones(30), jnp.int32(37), 0, 32, 3, 0.1)


@pytest.mark.parametrize("cells", [fused.CELLS, 16 * 16], ids=["whole batches", "in parts"])
@pytest.mark.parametrize("steps", ["adam", "in turn"])
def test_the_kernel_lowers_for_a_gpu(monkeypatch, steps, cells):
    monkeypatch.setattr(fused, "CELLS", cells)
    optimiser = Adam(jnp.float32(0.05)) if steps == "adam" else InTurn(*jnp.float32([0.1, 0.7]))

    def one(user, table):
        scores, samples = Products("probability"), some_samples()
        return fit_fused(scores, (), user, table, None, samples, optimiser, interpret=False)

    assert "triton" in lowered(one, (16,), (30, 16))


@pytest.mark.parametrize("cells", [fused.CELLS, 16 * 16], ids=["whole batches", "in parts"])
def test_the_kernel_that_merges_lowers_for_a_gpu(monkeypatch, cells):
    monkeypatch.setattr(fused, "CELLS", cells)
    adapter = Adapter((16, 8)).init(jax.random.key(0), *jnp.ones((2, 1, 16)))["params"]

    def one(user, table, target):
        rate, steps = jnp.float32(0.01), Adam(jnp.float32(0.05))
        return fit_merging(
            "logit", adapter, rate, user, table, target, some_samples(), steps, interpret=False
        )

    assert "triton" in lowered(one, (16,), (30, 16), (30, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("local-only", {"lr_embedding": 0.05}),
        ("fedmf", {"lr_embedding": 0.05}),
        ("fedmf", {"local_optimiser": "sgd", "lr_embedding": 0.05, "lr_item_factor": 1.0}),
        ("fedem", {"lr_embedding": 0.05, "lr_adapter": 0.01, "aggregation_fraction": 0.5}),
        ("fedem", {"lr_embedding": 0.05, "merging": "once", "aggregation_fraction": 0.5}),
    ],
    ids=["local-only", "fedmf", "fedmf, plain steps", "fedem", "fedem, once"],
)
def test_five_rounds_of_a_federation_rank_alike(method, own):
    """Blocks, size classes and early stops of a whole run."""
    by_xla, by_fused = (
        run(
            preset(
                "released", method=method, rounds=5, top_k=3, dim=8, local_epochs=3,
                batch_size=16, block_size=2, local_training=path, **own,
            ),
            small_federation(),
        ).records
        for path in ("xla", "fused")
    )  # fmt: skip
    assert len(by_xla) == 5
    for xla, ours in zip(by_xla, by_fused, strict=True):
        assert ours["val_full"] == xla["val_full"]
        np.testing.assert_allclose(ours["loss"], xla["loss"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "own"), [("fedmf", {}), ("fedem", {"aggregation_fraction": 0.5})], ids=str
)
def test_trials_of_a_sweep_side_by_side_end_alike(method, own):
    federation, reports = small_federation(), {}
    for path in ("xla", "fused"):
        config = preset(
            "released", method=method, rounds=3, top_k=3, dim=8, local_epochs=2, batch_size=16,
            block_size=2, local_training=path, **own,
        )  # fmt: skip
        trials = [dataclasses.replace(config, lr_embedding=rate) for rate in (0.02, 0.05, 0.1)]
        numbers = Simulation(config, federation).algorithm.hyper._fields
        stack = Stack(config.as_program(numbers), {config.seed: federation}, 3, 3)
        reports[path], _ = stack.run(trials, [1, 2, 3])
    xla, fused = reports["xla"], reports["fused"]
    np.testing.assert_array_equal(fused.counts, xla.counts)
    np.testing.assert_allclose(fused.loss, xla.loss, rtol=1e-5)


@pytest.mark.parametrize("path", ["xla", "fused"])
def test_the_settings_name_the_path(monkeypatch, path):
    went, rate = [], jnp.float32(0.1)
    ends = {"xla": ({"user": 0}, 0, None), "fused": ((), 0, 0, None)}
    for name, by in (("fit_embedding", "xla"), ("fit_fused", "fused")):
        monkeypatch.setattr(fitting, name, lambda *_, by=by: went.append(by) or ends[by])
    fit = fitting.fit_of(FedMF(local_training=path), print, InTurn(rate, rate), rate)
    assert fit({"user": 0}, 0, None) == ({"user": 0}, 0, None)
    assert went == [path]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"backbone": "ncf"}, "backbone=ncf"),
        ({"adapter": "table"}, "adapter=table"),
        ({"adapter_loss": "ranking"}, "adapter_loss=ranking"),
        ({"loss": "bpr"}, "loss=bpr"),
        ({"merging": "none", "local_optimiser": "closed-form"}, "local_optimiser=closed-form"),
        ({"adapter_widths": ()}, "adapter without a hidden layer"),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_refused(setting, named):
    with pytest.raises(UserError, match=f"local_training: fused has no kernel for {named}"):
        FedEM(local_training="fused", **setting)
    FedEM(**setting)

"""FedEM with the parts that go beyond the paper, against a loop over clients in float64.

Local training is by plain steps, which the loop takes one by one, or in closed form.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from in_turn import steps_in_turn
from replay import rounds_of
from server_adam import adam_of, moved
from toy import small_federation

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.settings import FedNCF
from fedem_jax.core.draws import HoldOut
from fedem_jax.errors import UserError
from fedem_jax.runs.simulation import Simulation

SMALL = {
    "dim": 4, "num_negative": 2, "batch_size": 16, "bce": "logit", "client_fraction": 0.9,
    "aggregation": "avg", "aggregation_fraction": 0.7, "local_epochs": 2, "threshold": 0.0,
    "init_scale": 0.5, "size_classes": 2, "local_optimiser": "sgd", "lr_embedding": 0.05,
    "lr_item_factor": 1.0, "lr_adapter": 0.1,
}  # fmt: skip
NEAR = {"rtol": 2e-5, "atol": 2e-5}
HELD_OUT = {"merging": "once", "adapter_samples": "held-out", "adapter_holdout": 0.4}
CASES = {
    "features, ranking, average": FedEM(
        **SMALL, **HELD_OUT, adapter="features", adapter_loss="ranking", adapter_sharing="average"
    ),
    "table, cross-entropy": FedEM(**SMALL, **HELD_OUT, adapter="table"),
    "table, ranking, average, plain steps": FedEM(
        **SMALL | {"lr_adapter": 3.0},
        **HELD_OUT,
        adapter_start=0.8,
        adapter="table",
        adapter_loss="ranking",
        adapter_sharing="average",
        adapter_optimiser="sgd",
    ),
    "table, failing clients": FedEM(
        **SMALL | {"local_epochs": 3}, **HELD_OUT, adapter="table", dropout=0.2, stragglers=0.6
    ),
    "shrinkage": FedEM(**SMALL, merging="shrinkage", adapter="table"),
    "closed form, uniform": FedEM(
        **SMALL | {"local_optimiser": "closed-form", "lr_embedding": 0.3},
        **HELD_OUT,
        adapter="table",
        adapter_loss="ranking",
        weighting="uniform",
        confidence=3.0,
        regularization=0.2,
    ),
    "table, a server with Adam": FedEM(
        **SMALL,
        **HELD_OUT,
        adapter="table",
        server_optimiser="adam",
        lr_server=0.02,
        beta1=0.5,
        server_decay=0.1,
    ),
}


def bound(config, clients=9):
    return Simulation(config, small_federation("leak-free", clients), jax.devices()[:1])


# --- the loop -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Drawn:
    """Some of a client's samples of a round, and the order in which each epoch visits them."""

    items: np.ndarray
    labels: np.ndarray
    orders: list[np.ndarray]

    def batches(self, epoch, size):
        order = self.orders[epoch]
        return (order[start : start + size] for start in range(0, len(order), size))


def draws_of(simulation, number, hold_out):
    """(of local training, of the adapter) of each client that trains in a round, uploaders."""
    config, federation = simulation.config, simulation.federation
    draws = simulation.draws(simulation.key_draws, jnp.int32(number), simulation.lists)
    room = [int(np.diff(x).max()) for x in (federation.offsets, federation.barred_offsets)]
    participants, drawn = draws.participants(), {}
    for client in np.sort(participants):
        samples = draws.samples(jnp.int32(client), *room, hold_out)
        count = int(samples.count)
        held = np.zeros(count, bool) if hold_out is None else np.asarray(samples.held_out)[:count]
        parts, epochs = [], config.local_epochs
        if config.stragglers:
            epochs = int(draws.epochs(client, epochs, config.stragglers))
        for chosen in (~held, held):
            items, labels = (np.asarray(x)[:count][chosen] for x in samples[:2])
            whole = config.batch_size >= len(samples.items)
            orders = [
                np.arange(len(items)) if whole or not len(items) else np.asarray(
                    draws.order(client, epoch, jnp.int32(len(items)))(jnp.arange(len(items))))
                for epoch in range(epochs)
            ]  # fmt: skip
            parts.append(Drawn(items, labels, orders))
        drawn[int(client)] = parts if hold_out is not None else [parts[0], parts[0]]
    return drawn, np.asarray(draws.uploaders(participants))


def features_of(user, local, aggregated, seen):
    scores = np.stack([local @ user, aggregated @ user], axis=1)
    norms = np.stack(
        [np.linalg.norm(x, axis=1) for x in (local, aggregated, aggregated - local)], axis=1
    )
    parts = (
        np.ones((len(local), 1)), np.log(1 + seen).T,
        scores / np.sqrt(np.mean(scores**2)), norms / norms[:, :2].mean(),
    )  # fmt: skip
    return np.concatenate(parts, axis=1)


def slope_of_scores(scores, labels, kind):
    """Gradient of the loss of a batch with respect to its scores, sample by sample."""
    if kind == "cross-entropy":
        return twin.bce(scores, labels, "logit")[1] / len(scores)
    slope, negative = np.zeros(len(scores)), np.flatnonzero(labels == 0)
    positives = np.flatnonzero(labels)
    for p in positives:
        among = np.append(negative, p)
        share = np.exp(scores[among]) / np.exp(scores[among]).sum()
        slope[among] += share / len(positives)
        slope[p] -= 1 / len(positives)
    return slope


def fitted(theta, inputs, user, local, aggregated, drawn, config):
    """Parameters w of rho = sigmoid(w . inputs) after steps on the adapter's samples."""
    moments, away = twin.adam_init([theta]), aggregated - local
    for epoch in range(len(drawn.orders)):
        for batch in drawn.batches(epoch, config.batch_size):
            items, labels = drawn.items[batch], drawn.labels[batch]
            rho = twin.sigmoid(inputs @ theta)
            scores = (local + rho[:, None] * away)[items] @ user
            slope = slope_of_scores(scores, labels, config.adapter_loss)
            of_rho = slope * (away[items] @ user)
            inside = (rho * (1 - rho))[items]
            slope = inputs[items].T @ (of_rho * inside)
            if config.adapter_optimiser == "sgd":
                theta = theta - config.lr_adapter * slope
            else:
                (theta,), moments = twin.adam([theta], [slope], moments, config.lr_adapter)
    return theta


def solved_in_turn(user, table, drawn, config):
    """The user vector from all items, then a step of all rows, in each epoch."""
    label = np.zeros(len(table))
    label[drawn.items[drawn.labels == 1]] = 1
    weight = 1 + config.confidence * label
    for _ in range(config.local_epochs if label.any() else 0):
        matrix = (weight[:, None] * table).T @ table + config.regularization * np.eye(len(user))
        user = np.linalg.solve(matrix, table.T @ (weight * label))
        error = weight * (label - table @ user)
        table = table + config.lr_embedding * np.outer(error, user)
    return user, table


def shrunk(local, aggregated, samples):
    used = samples > 0
    n, z = samples[used], (samples * np.mean((aggregated - local) ** 2, axis=1))[used]
    t2, s2 = np.polyfit(n, z, 1) if len(set(n)) > 1 else (0.0, z.mean())
    if t2 < 0:
        t2, s2 = 0.0, z.mean()
    if s2 < 0:
        t2, s2 = n @ z / (n @ n), 0.0
    rho = np.ones(len(samples))
    rho[used] = s2 / (s2 + n * t2)
    return rho


def loop(simulation, rounds):
    """(user vectors, tables, adapters, samples seen, G, scores) after each round."""
    config, federation = simulation.config, simulation.federation
    state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), simulation.init())
    number, size = federation.num_clients, federation.num_items
    users, tables = list(state.clients.private["user"]), list(state.clients.items)
    (adapters,) = jax.tree.leaves(state.clients.adapter)
    start = np.zeros(adapters.shape[1:])
    start.flat[0] = np.log(config.adapter_start / (1 - config.adapter_start))
    thetas, shared, common, adam = [start] * number, start, tables[0], adam_of(config)
    seen, waiting = np.zeros((number, 2, size)), np.zeros(number, bool)
    hold_out = HoldOut(config.adapter_holdout) if config.merging == "once" else None
    counts = np.diff(federation.offsets) * (1 + config.num_negative)
    if config.weighting == "uniform":
        counts = np.ones(number)
    train = solved_in_turn if config.closed_form else steps_in_turn

    def weight(u, theta):
        """Inputs of the adapter, if there is one, and rho."""
        if config.merging == "shrinkage":
            return None, shrunk(tables[u], common, seen[u].sum(axis=0))
        inputs = np.ones((size, 1))
        if config.adapter == "features":
            inputs = features_of(users[u], tables[u], common, seen[u])
        return inputs, twin.sigmoid(inputs @ np.atleast_1d(theta))

    for r in range(rounds):
        drawn, uploaders = draws_of(simulation, r, hold_out)
        for u, (to_fit, to_adapt) in drawn.items():
            if waiting[u]:
                theta = shared if config.adapter_sharing == "average" else thetas[u]
                inputs, rho = weight(u, theta)
                if inputs is not None:
                    theta = fitted(np.atleast_1d(theta), inputs, users[u], tables[u], common,
                                   to_adapt, config)  # fmt: skip
                    thetas[u] = theta.reshape(start.shape)
                    _, rho = weight(u, theta)
                tables[u] = tables[u] + rho[:, None] * (common - tables[u])
                seen[u] *= 1 - rho
            users[u], tables[u] = train(users[u], tables[u], to_fit, config)
            for kind in (1, 0):
                np.add.at(seen[u, 1 - kind], to_fit.items[to_fit.labels == kind], 1)
        shares = counts[uploaders] / counts[uploaders].sum()
        common = moved(adam, common, [tables[u] for u in uploaders], shares)
        shared = np.tensordot(shares, np.stack([thetas[u] for u in uploaders]), 1)
        waiting[:] = False
        waiting[uploaders] = True
        scores = []
        for u in range(number):
            table = tables[u]
            if waiting[u]:
                theta = shared if config.adapter_sharing == "average" else thetas[u]
                table = table + weight(u, theta)[1][:, None] * (common - table)
            scores.append(table @ users[u])
        yield users, tables, thetas, seen, common, np.stack(scores)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow_but("table, a server with Adam")
def test_rounds_are_those_of_a_loop_over_clients(case):
    simulation, rounds = bound(CASES[case]), 3
    merged_somewhere = False
    for ours, theirs in zip(rounds_of(simulation, rounds), loop(simulation, rounds), strict=True):
        clients, server, _, _, scores = ours
        users, tables, thetas, seen, common, their_scores = theirs
        np.testing.assert_allclose(clients.private["user"], users, **NEAR)
        np.testing.assert_allclose(clients.items, tables, **NEAR)
        np.testing.assert_allclose(server.items[0], common, **NEAR)
        np.testing.assert_allclose(scores, their_scores, **NEAR)
        if simulation.config.counts_samples:
            np.testing.assert_allclose(clients.seen, seen, **NEAR)
        if simulation.config.learns_rho:
            (adapter,) = jax.tree.leaves(clients.adapter)
            np.testing.assert_allclose(adapter, thetas, **NEAR)
            merged_somewhere = merged_somewhere or np.abs(adapter - adapter[0]).max() > 0.05
    assert merged_somewhere == simulation.config.learns_rho


# --- what is held out, and what is sent -----------------------------------------------------------


def test_local_training_knows_nothing_of_what_is_held_out_but_that_it_may_be_negative():
    simulation = bound(CASES["table, cross-entropy"])
    config, federation = simulation.config, simulation.federation
    drawn = [draws_of(simulation, r, HoldOut(config.adapter_holdout))[0] for r in range(12)]
    drawn_as_negatives = 0
    for client in range(federation.num_clients):
        mine = [each[client] for each in drawn if client in each]
        held = {tuple(sorted(set(aside.items[aside.labels == 1]))) for _, aside in mine}
        assert len(held) == 1  # the same ones in every round
        (held,) = held
        for trained, _ in mine:
            assert not set(held) & set(trained.items[trained.labels == 1])
            drawn_as_negatives += len(set(held) & set(trained.items[trained.labels == 0]))
    assert drawn_as_negatives > 20


def sent(**changes):
    return bound(FedEM(**SMALL | changes)).algorithm.traffic


def test_a_shared_adapter_is_paid_for_up_and_down():
    usual, numbers = sent(merging="once"), {"table": 1, "features": 8}
    uploaders = 5  # of 9 clients 8 take part
    for adapter, size in numbers.items():
        paid = sent(merging="once", adapter=adapter, adapter_sharing="average")
        assert paid == (usual.up + uploaders * 4 * size, usual.down + uploaders * 4 * size)
        assert sent(merging="once", adapter=adapter) == usual
    assert sent(merging="replace", adapter_sharing="average") == usual


@pytest.mark.slow
def test_a_shared_adapter_is_bounded_together_with_its_table_and_has_noise():
    config = FedEM(
        **SMALL, merging="once", adapter="features", adapter_sharing="average", ldp_clip=1.0,
        ldp_scale=0.01,
    )  # fmt: skip
    simulation = bound(config)
    state = simulation.init()
    (start,) = jax.tree.leaves(state.server.adapter)
    state, *_ = simulation.segment(state, 1)(state, 0)
    (mean,) = jax.tree.leaves(state.server.adapter)
    assert start.shape == mean.shape == (8,)
    assert 0 < float(jnp.abs(mean).max()) < 0.1  # nobody fitted one yet: this is noise alone
    own = jax.tree.leaves(state.clients.adapter)[0]
    np.testing.assert_array_equal(own, np.zeros(own.shape))


# --- what does not fit together -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adapter_samples": "held-out"}, r"adapter_samples: held-out needs .* merging=once"),
        (
            {"adapter_samples": "held-out-unseen", "merging": "shrinkage"},
            r"adapter_samples: held-out-unseen needs .* merging=once",
        ),
        (
            {"merging": "once", "adapter_holdout": 0.2},
            r"adapter_holdout: 0.2 is a share of held-out .* adapter_samples=held-out",
        ),
        ({"adapter": "features"}, r"adapter: features are those .* merging=once"),
        (
            {"local_optimiser": "closed-form"},
            r"local_optimiser: closed-form has no batches to merge in; also give merging=once",
        ),
        (
            {"local_optimiser": "closed-form", "merging": "shrinkage"},
            r"local_optimiser: closed-form samples nothing, and merging=shrinkage counts samples",
        ),
        (
            {"local_optimiser": "closed-form", "merging": "once", "adapter": "features"},
            r"local_optimiser: closed-form samples nothing, and adapter=features counts samples",
        ),
        (
            {"server_optimiser": "adam"},
            r"server_optimiser: adam moves one table .* aggregation=both makes several; also give "
            "aggregation=avg, or server_optimiser=none",
        ),
        (
            {"local_optimiser": "sgd", "backbone": "ncf"},
            r"local_optimiser: sgd .* no network as backbone=ncf has it; give adam",
        ),
    ],
)
def test_settings_without_a_meaning_together_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        FedEM(**settings)
    assert str(raised.value).count(". ") == 0


def test_a_federated_network_is_trained_by_adam_alone():
    with pytest.raises(UserError, match=r"local_optimiser: sgd .* no network as fedncf has it"):
        FedNCF(local_optimiser="sgd")


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "ncf", "merging": "once", "adapter": "features", "adapter_loss": "ranking",
         "adapter_samples": "held-out", "adapter_sharing": "average"},
        {"backbone": "ncf", "merging": "per-batch", "adapter_loss": "ranking"},
        {"backbone": "ncf", "merging": "shrinkage"},
        {"merging": "per-batch", "local_optimiser": "sgd"},
        {"merging": "none", "local_optimiser": "sgd"},
    ],
)  # fmt: skip
def test_what_is_not_refused_makes_a_program(settings):
    config = FedEM(dim=4, size_classes=1, aggregation_fraction=0.7, **settings)
    simulation = bound(config)
    start = jax.eval_shape(
        simulation.algorithm.init, simulation.key_init, simulation.algorithm.hyper
    )
    rest = (simulation.key_draws, simulation.lists, simulation.held_out, simulation.algorithm.hyper)
    after, *_ = jax.eval_shape(lambda state, *rest: simulation._rounds(1, state, 0, *rest),
                               start, *rest)  # fmt: skip
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(
        lambda leaf: leaf.shape, start
    )

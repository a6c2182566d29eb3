"""FedRAP against a loop over clients in float64, whose tables are dense, and its decays.

The stable loss and small steps: the released ones blow rounding up.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin
from replay import arrived_in, draws_of, rounds_of
from toy import CHANCE, checkerboard, small_federation

from fedem_jax.client.local import run_epochs
from fedem_jax.config.settings import FedRAP
from fedem_jax.core.blocks import BLOCK
from fedem_jax.core.samples import ClientSamples, Rule
from fedem_jax.methods.fedrap import Hyper, weights_of
from fedem_jax.runs.simulation import Simulation

SMALL = FedRAP(
    dim=4, num_negative=2, batch_size=24, local_epochs=3, lr_network=0.2, lr_embedding=2.0,
    independence=0.3, sparsity=0.2, weight_decay=0.02, decay_per_batch=0.9, decay_per_round=0.8,
    threshold=0.02, bce="logit", client_fraction=0.8, size_classes=2,
)  # fmt: skip
CASES = {
    "as released": (SMALL, 1),
    "as in the paper, in blocks on two devices, some uploads lost": (
        dataclasses.replace(
            SMALL, schedule="tanh", sparsity_norm="l2", size_classes=1, block_size=4, dropout=0.3
        ),
        2,
    ),
}
ROUNDS = 3
NEAR = {"rtol": 1e-5, "atol": 1e-5}


# --- the loop -------------------------------------------------------------------------------------


def weights(config, number):
    """lambda and mu in a round."""
    rise = np.tanh(number / 10) if config.schedule == "tanh" else 1.0
    return rise * config.independence, rise * config.sparsity


def trained(head, own, common, drawn, config, number):
    """A client's local training: w, b, D, C and the rates of its steps, in turn."""
    (head, bias), own, common = head, own.copy(), common.copy()
    independence, sparsity = weights(config, number)
    rate, rates = config.decay_per_round**number, []
    total, seen, before = 0.0, 0, None
    for epoch in range(config.local_epochs):
        for batch in drawn.batches(epoch, config.batch_size):
            items, labels = drawn.items[batch], drawn.labels[batch]
            d, c = own[items], common[items]
            loss, slope = twin.bce((d + c) @ head + bias, labels, "logit")
            l1 = config.sparsity_norm == "l1"
            size, grown = (np.abs(c), np.sign(c)) if l1 else (c**2, 2 * c)
            mean = loss.mean() - independence * ((d - c) ** 2).mean() + sparsity * size.mean()
            apart = 2 * independence * (d - c) / d.size
            by_score = np.outer(slope, head) / len(batch)
            slopes = [slope @ (d + c) / len(batch), slope.mean(), np.zeros_like(own)]
            slopes.append(np.zeros_like(common))
            np.add.at(slopes[2], items, by_score - apart)
            np.add.at(slopes[3], items, by_score + apart + sparsity * grown / d.size)
            lr = rate * np.array([config.lr_network] * 2 + [config.lr_embedding] * 2)
            head, bias, own, common = (
                x - step * (gradient + config.weight_decay * x)
                for x, gradient, step in zip((head, bias, own, common), slopes, lr, strict=True)
            )
            total, seen = total + mean * len(batch), seen + len(batch)
            rates.append(rate)
            rate *= config.decay_per_batch
        now = total / seen
        if before is not None and abs(now - before) / abs(before) < config.threshold:
            break
        before = now
    return (head, bias), own, common, now, rates


def loop(simulation, draws):
    """Own tables, the common one, scores, losses and rates after each round."""
    config, clients = simulation.config, simulation.federation.num_clients
    start, server = jax.tree.map(np.float64, simulation.init())
    layer = start.private["Dense_0"]
    heads = [(layer["kernel"][0, :, 0], layer["bias"][0, 0])] * clients
    own, common = list(start.items[simulation.layout.place]), server.items
    for number, drawn_by in enumerate(draws):
        uploads, losses, rates = {}, np.full(clients, np.nan), {}
        for u, drawn in drawn_by.items():
            heads[u], own[u], mine, losses[u], rates[u] = trained(
                heads[u], own[u], common, drawn, config, number
            )
            uploads[u] = mine
        common = np.mean([uploads[u] for u in arrived_in(simulation, number)], axis=0)
        scores = [(own[u] + common) @ heads[u][0] + heads[u][1] for u in range(clients)]
        yield np.stack(own), common, np.stack(scores), losses, rates


@pytest.fixture(
    scope="module",
    params=[each if each == "as released" else pytest.param(each, marks=pytest.mark.slow)
            for each in CASES],
)  # fmt: skip
def rounds(request):
    """A simulation, what it draws, its rounds, and those of the loop."""
    config, devices = CASES[request.param]
    simulation = Simulation(config, small_federation("leak-free", 9), jax.devices()[:devices])
    draws = [draws_of(simulation, number) for number in range(ROUNDS)]
    return simulation, draws, rounds_of(simulation, ROUNDS), list(loop(simulation, draws))


def test_rounds_are_those_of_a_loop_over_clients(rounds):
    simulation, _, ours, theirs = rounds
    place, idle, epochs = simulation.layout.place, False, []
    for (clients, server, info, _, scores), (own, common, expected, losses, _) in zip(
        ours, theirs, strict=True
    ):
        np.testing.assert_allclose(server.items, common, **NEAR)
        np.testing.assert_allclose(clients.items[place], own, **NEAR)
        np.testing.assert_allclose(scores[place], expected, **NEAR)
        np.testing.assert_allclose(info.loss[place], losses, **NEAR)
        idle = idle or np.isnan(losses).any()
        epochs += list(info.epochs[place][~np.isnan(losses)])
    assert idle
    assert len(set(epochs)) > 1  # some stop early


def test_an_item_met_twice_in_a_batch_counts_twice(rounds):
    """Else the loop could not tell whether means are over samples or over items."""
    simulation, draws, *_ = rounds
    batches = [
        drawn.items[batch]
        for drawn in draws[0].values()
        for batch in drawn.batches(0, simulation.config.batch_size)
    ]
    assert any(len(np.unique(items)) < len(items) for items in batches)


def test_a_row_outside_the_samples_only_decays(rounds):
    """It is what it was, times prod_s (1 - lr_s wd)."""
    simulation, draws, ours, theirs = rounds
    place, untouched = simulation.layout.place, 0
    for number in range(1, ROUNDS):
        before, after = (np.float64(ours[r][0].items[place]) for r in (number - 1, number))
        rates = theirs[number][-1]
        for u, drawn in draws[number].items():
            still = np.setdiff1d(np.arange(before.shape[1]), drawn.items)
            lr = simulation.config.lr_embedding * np.array(rates[u])
            factor = np.prod(1 - lr * simulation.config.weight_decay)
            assert factor < 0.97
            np.testing.assert_allclose(after[u, still], factor * before[u, still], rtol=1e-6)
            untouched += len(still)
    assert untouched > 100


def test_constant_and_rising_weights_differ_from_the_first_round_on():
    hyper = Hyper(*(jnp.float32(getattr(SMALL, name)) for name in Hyper._fields))
    rising = dataclasses.replace(SMALL, schedule="tanh")
    for number in range(4):
        constant = weights_of(SMALL, jnp.int32(number), hyper)
        assert float(constant.independence) == np.float32(0.3)
        assert float(constant.sparsity) == np.float32(0.2)
        weights = weights_of(rising, jnp.int32(number), hyper)
        np.testing.assert_allclose(weights.independence, 0.3 * np.tanh(number / 10), rtol=1e-6)
        np.testing.assert_allclose(weights.sparsity, 0.2 * np.tanh(number / 10), rtol=1e-6)
        np.testing.assert_allclose([constant.rate, weights.rate], 0.8**number, rtol=1e-6)


@pytest.mark.parametrize(("offset", "epochs"), [(0.0, 3), (1e-5, 2)])
def test_small_losses_do_not_stop_a_client_as_they_do_elsewhere(offset, epochs):
    """Running losses 2e-6 and 5e-6: a change by 150 %, or by 25 % of what 1e-5 is added to."""
    losses = jnp.array([2e-6, 8e-6, 8e-6])
    rule = Rule(4, 3, jnp.float32(0.5), offset)
    nothing = jnp.zeros(4, jnp.int32)
    session = ClientSamples(
        nothing,
        jnp.zeros(4),
        nothing,
        jnp.int32(4),
        lambda e, n: lambda position: position,
        rule,
        0,
    )

    def run(_):
        return run_epochs(lambda e, row, present: (e + 1, losses[e]), jnp.int32(0), session)

    ran, _ = jax.vmap(run, axis_name=BLOCK)(jnp.zeros(1))
    assert int(ran[0]) == epochs


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_withheld_items_are_found():
    config = FedRAP(
        dim=8, init_scale=0.1, bce="logit", rounds=60, size_classes=1, local_epochs=2, top_k=5,
        lr_network=1.0, lr_embedding=1.0, sparsity=1e-3, weight_decay=0.01, decay_per_round=1.0,
    )  # fmt: skip
    simulation = Simulation(config, checkerboard("leak-free"), jax.devices()[:1])
    start = simulation.init()
    _, info, ranks = simulation.segment(start, config.rounds)(start, 0)
    record = simulation.record(config.rounds, info, ranks)
    assert record["test"]["hr@5"] > 0.7 > 2 * CHANCE

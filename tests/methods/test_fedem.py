"""Whole rounds of FedEM, merging to evaluation, against the NumPy twin, client by client.

The twin draws, both compute: it in float64 with the stable loss, so that nothing but the rounding
of the program under test is between them.
"""

import dataclasses
from functools import partial

import golden_check
import jax
import numpy as np
import pytest
from toy import permuted
from trace_maker import make_trace

from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import hyper_of
from fedem_jax.methods.fedem import Hyper
from fedem_jax.runs.simulation import Simulation

ROUNDS = 3
GENTLE = {
    "global_round": ROUNDS, "local_epoch": 4, "batch_size": 16, "threshold": 0.03,
    "lr_embedding": 0.01, "lr_adapter": 0.03,
}  # fmt: skip
"""Short training, so that the logits stay where float32 can tell probabilities apart."""
TWIN = {"bce": "logit", "dtype": np.float64, "user": (1.4, -1.2, 1.1, -1.3)}
"""Gradients of a table are multiples of the user vector, whose components stay away from zero: Adam
would blow up the rounding of a gradient that vanishes."""
CALM = 7
"""A federation where that happens to no weight of an adapter either: in the twin, noise of 1e-6 on
all that a run starts from moves none of them by more than 2e-5. It moves some by 1e-2 in half of
the first 40 federations, where the gradient of a hidden unit is at one step next to nothing."""


class Rounds(golden_check.Replay):
    """Rounds on one device whose draws are those of a trace."""

    def __init__(self, trace, merging, federation=None, path="xla"):
        config = golden_check.configuration(trace)
        config = dataclasses.replace(
            config, bce="logit", merging=merging, size_classes=2, local_training=path
        )
        federation = federation or golden_check.federation(trace)
        Simulation.__init__(self, config, federation, jax.devices()[:1])
        self.trace = trace
        self.program = jax.jit(partial(self._rounds, 1))

    def run(self, hyper=None):
        """(state, info, ranks) after each round, of the clients that exist."""
        hyper = hyper or self.algorithm.hyper
        rest = (self.key_draws, self.lists, self.held_out, hyper)
        state = golden_check.state_before(self.trace, 0, self)
        with jax.default_matmul_precision("highest"):
            for number in range(self.config.rounds):
                state, info, ranks = self.program(state, number, *rest)
                info = jax.tree.map(lambda leaf: leaf[0], info)
                yield jax.tree.map(np.asarray, (state, info, ranks))


def assert_equal_to_twin(rounds, trace):
    for number, (state, info, ranks) in enumerate(rounds):
        clients, at = state.clients, {"err_msg": f"round {number}"}
        near = at | {"rtol": 0, "atol": 2e-5}
        np.testing.assert_array_equal(info.epochs, trace["epochs_run"][number], **at)
        loss = np.where(info.epochs > 0, info.loss, -1)
        np.testing.assert_allclose(loss, trace["client_loss"][number], **near)
        user = trace["user_embedding_end"][number]
        np.testing.assert_allclose(clients.private["user"], user, **near)
        np.testing.assert_allclose(clients.items, trace["item_table_end"][number], **near)
        for layer, params in enumerate(clients.adapter[f"Dense_{i}"] for i in range(3)):
            kernel = trace[f"adapter_w{layer}_end"][number].swapaxes(1, 2)
            bias = trace[f"adapter_b{layer}_end"][number]
            gap = np.abs(np.concatenate([(params["kernel"] - kernel).ravel(),
                                         (params["bias"] - bias).ravel()]))  # fmt: skip
            assert gap.mean() < 2e-6
            assert gap.max() < 1e-3
        tables = trace["server_item_table"][number][: len(state.server.items)]
        np.testing.assert_allclose(state.server.items, tables, **near)
        for part in ("val", "test"):
            expected = trace[f"{part}_rank"][number]
            np.testing.assert_array_equal(getattr(ranks, part), expected, **at)
        assert ranks.finite.all()


CASES = {
    "per-batch": {"agg_mode": "both", "sim_mode": "l2"},
    "once": {"agg_mode": "avg", "clients_sample_ratio": 0.75, "agg_clients_ratio": 0.67,
             "num_negative": 4},
    "none": {"agg_mode": "both", "sim_mode": "cos", "clients_sample_ratio": 0.75},
}  # fmt: skip


@pytest.fixture(scope="module")
def per_batch():
    """A trace with the default way of merging, and the rounds of its replay."""
    trace = make_trace(random_state=CALM, **GENTLE, **CASES["per-batch"], **TWIN)
    return trace, list(Rounds(trace, "per-batch").run())


def test_rounds_are_those_of_the_twin(per_batch):
    trace, rounds = per_batch
    assert_equal_to_twin(rounds, trace)


@pytest.mark.slow
def test_rounds_in_one_kernel_are_those_of_the_twin(per_batch):
    trace, _ = per_batch
    assert_equal_to_twin(Rounds(trace, "per-batch", path="fused").run(), trace)


@pytest.mark.parametrize("merging", ["once", "none"])
@pytest.mark.slow_but("once")
def test_rounds_of_other_ways_of_merging_are_those_of_the_twin(merging):
    kind = 0 if merging == "none" else merging
    trace = make_trace(merging=kind, random_state=CALM, **GENTLE, **CASES[merging], **TWIN)
    assert len(np.unique(trace["epochs_run"][trace["epochs_run"] > 0])) > 1  # some stop early
    served = trace["item_table_end"][0, trace["agg_participants"][0]]
    assert np.abs(served - trace["server_item_table"][0]).max() > 0.05  # there is a difference
    assert_equal_to_twin(Rounds(trace, merging).run(), trace)


def test_rounds_with_a_constant_weight_are_those_of_the_twin():
    """Replacement is the same program with a weight of 1."""
    cases = {"agg_mode": "sim", "sim_mode": "cos", "agg_clients_ratio": 0.75, "threshold": 0.0}
    program = None
    for rho, merging in ((0.3, "0.3"), (1.0, "replace")):
        trace = make_trace(merging=rho, **(GENTLE | cases), **TWIN)
        assert trace["had_server_model"][1:].sum() == 12
        program = program or Rounds(trace, merging)
        hyper = program.algorithm.hyper._replace(rho=hyper_of(Hyper, FedEM(merging=merging)).rho)
        assert_equal_to_twin(program.run(hyper), trace)


# --- permuted clients -----------------------------------------------------------------------------


def permuted_trace(trace, order):
    """The draws of the same clients under other numbers."""
    each = ("sample_count", "sample_items", "sample_labels", "visit_order", "had_server_model")
    place = np.argsort(order)
    named = {name: place[trace[name]] for name in ("participants", "agg_participants")}
    return trace | {name: trace[name][:, order] for name in each} | named


@pytest.mark.slow
def test_permuting_the_clients_permutes_the_result(per_batch):
    trace, rounds = per_batch
    order = np.random.default_rng(3).permutation(8)
    federation = permuted(golden_check.federation(trace), order)
    others = Rounds(permuted_trace(trace, order), "per-batch", federation).run()
    for (state, info, ranks), (other, other_info, other_ranks) in zip(rounds, others, strict=True):
        expected = jax.tree.map(lambda leaf: leaf[order], (state.clients, info, ranks))
        found = (other.clients, other_info, other_ranks)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        np.testing.assert_array_equal(other.server.items, state.server.items)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "client_fraction", "aggregation_fraction", "expected"),
    [
        (24, 1.0, 0.5, (24, 12)),
        (943, 1.0, 0.1, (943, 94)),
        (8, 0.7, 0.5, (5, 2)),
        (3, 0.1, 0.1, (1, 1)),
    ],
)
def test_fractions_are_rounded_down_to_at_least_one(
    clients, client_fraction, aggregation_fraction, expected
):
    config = FedEM(client_fraction=client_fraction, aggregation_fraction=aggregation_fraction)
    assert config.round_sizes(clients) == expected


@pytest.mark.parametrize(("merging", "rho"), [("replace", 1), ("none", 0), ("0.3", 0.3), ("1", 1)])
def test_ways_of_merging_that_are_constants(merging, rho):
    assert hyper_of(Hyper, FedEM(merging=merging)).rho == np.float32(rho)


@pytest.mark.parametrize("merging", ["per-batch", "once", "shrinkage"])
def test_a_constant_used_in_place_of_an_adapter_would_spoil_everything(merging):
    assert np.isnan(hyper_of(Hyper, FedEM(merging=merging)).rho)

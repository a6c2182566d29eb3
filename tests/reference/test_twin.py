"""The NumPy twin against the recorded run of the authors' program, and against finite differences.

Tolerances are those suggested beside the recording; shares and means, since single elements
near Adam's eps are chaotic.
"""

import json
from itertools import pairwise

import numpy as np
import pytest
import twin

CASES = [pytest.param(j, id=f"steps{j}") for j in (0, 1)]


def adapter_at(trace, suffix, index=(), prefix="adapter_"):
    """Layers (kernel [in, out], bias) of a recorded adapter; the recording has [out, in]."""
    layers = sum(f"{prefix}w{layer}{suffix}" in trace for layer in range(9))
    return [
        (trace[f"{prefix}w{layer}{suffix}"][index].T, trace[f"{prefix}b{layer}{suffix}"][index])
        for layer in range(layers)
    ]


def server_table(trace, r, user):
    """The aggregated table that `user` merges in round r, None if it does not."""
    if not trace["had_server_model"][r, user]:
        return None
    (position,) = np.flatnonzero(trace["agg_participants"][r - 1] == user)
    return trace["server_item_table"][r - 1, position]


def samples(trace, r, user):
    """Items, labels and orders of a client-round; epochs not run visit the samples as listed."""
    count = trace["sample_count"][r, user]
    orders = trace["visit_order"][r, user, :, :count]
    orders = np.where(orders < 0, np.arange(count), orders)
    return trace["sample_items"][r, user, :count], trace["sample_labels"][r, user, :count], orders


@pytest.fixture(scope="module")
def trace(golden_trace):
    return {name: golden_trace[name] for name in golden_trace}


@pytest.fixture(scope="module")
def config(trace):
    return json.loads(str(trace["config_json"]))


@pytest.fixture(scope="module")
def replay(trace, config):
    """Local training of all clients in all rounds, each from its recorded start, in float32."""
    return {
        (r, user): twin.local_train(
            trace["user_embedding_start"][r, user],
            trace["item_table_start"][r, user],
            server_table(trace, r, user),
            adapter_at(trace, "_start", (r, user)),
            *samples(trace, r, user),
            batch_size=config["batch_size"],
            lr_embedding=config["lr_embedding"],
            lr_adapter=config["lr_adapter"],
            threshold=config["threshold"],
            dtype=np.float32,
        )
        for r in range(config["global_round"])
        for user in trace["participants"][r]
    }


class Case:
    """A small random client in float64: 7 items, width 3, 10 samples with repeated items."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.user = rng.normal(size=3)
        self.table, self.server = rng.normal(size=(2, 7, 3))
        widths = [6, 5, 4, 1]
        self.adapter = [(rng.normal(size=(m, n)), rng.normal(size=n)) for m, n in pairwise(widths)]
        self.items = rng.integers(0, 5, 10)  # items 5 and 6 stay untouched
        self.labels = rng.integers(0, 2, 10).astype(float)
        self.orders = np.array([rng.permutation(10) for _ in range(6)])

    def train(self, server, table=None, **settings):
        defaults = {"batch_size": 4, "lr_embedding": 0.1, "lr_adapter": 0.05, "threshold": 1e-4}
        return twin.local_train(
            self.user,
            self.table if table is None else table,
            server,
            self.adapter,
            self.items,
            self.labels,
            self.orders,
            **(defaults | settings),
        )


def numeric_gradient(f, x, step=1e-6):
    """Central differences of the number f() with respect to x, changed in place."""
    grad = np.empty_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + step
        above = f()
        x[index] = value - step
        grad[index] = (above - f()) / (2 * step)
        x[index] = value
    return grad


# --- loss and gradients ---------------------------------------------------------------------------


def test_bce_unit_vectors(trace):
    logit, label = trace["bce_logit"], trace["bce_label"]
    np.testing.assert_allclose(twin.sigmoid(logit), trace["bce_prob"], rtol=5e-7)
    for dtype in (np.float32, np.float64):
        loss, slope = twin.bce(logit.astype(dtype), label, "probability")
        np.testing.assert_allclose(loss, trace["bce_loss"], rtol=1e-6, atol=5e-7)
        np.testing.assert_allclose(slope, trace["bce_grad"], rtol=1e-6, atol=5e-7)


def test_bce_forms_agree_away_from_saturation():
    logit, label = np.linspace(-9, 9, 50).repeat(2), np.tile([0.0, 1.0], 50)
    for stable, rounded in zip(
        twin.bce(logit, label, "logit"), twin.bce(logit, label, "probability"), strict=True
    ):
        np.testing.assert_allclose(stable, rounded, atol=1e-3, rtol=0)


def test_bce_logit_slope():
    logit, label = np.array([-800.0, -30, -1, 0.5, 20, 800]).repeat(2), np.tile([0.0, 1.0], 6)
    above, below = (twin.bce(logit + h, label, "logit")[0] for h in (1e-6, -1e-6))
    slope = twin.bce(logit, label, "logit")[1]
    np.testing.assert_allclose(slope, (above - below) / 2e-6, atol=1e-6)


@pytest.mark.parametrize("merged", [True, False])
def test_gradients_are_finite_differences(merged):
    case = Case()
    server = case.server if merged else None

    def evaluate():
        return twin.gradients(
            case.user, case.table, server, case.adapter, case.items, case.labels, "logit"
        )

    grads = evaluate()
    params = [case.user, case.table, *(twin.flatten(case.adapter) if merged else [])]
    for x, grad in zip(params, [*grads[1:3], *twin.flatten(grads.adapter)], strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(lambda: evaluate().loss, x), atol=1e-8)


def test_adapter_backward_is_finite_differences():
    case = Case()
    x, weight = np.random.default_rng(1).normal(size=(2, 7, 6))
    weight = weight[:, 0]
    rho, inputs = twin.adapter_forward(case.adapter, x)
    grads, x_grad = twin.adapter_backward(case.adapter, inputs, rho, weight)
    for array, grad in zip(
        [x, *twin.flatten(case.adapter)], [x_grad, *twin.flatten(grads)], strict=True
    ):
        expected = numeric_gradient(
            lambda: twin.adapter_forward(case.adapter, x)[0] @ weight, array
        )
        np.testing.assert_allclose(grad, expected, atol=1e-8)


# --- local training -------------------------------------------------------------------------------


def test_round_start_merge(trace, config):
    for r in range(1, config["global_round"]):
        for user in np.flatnonzero(trace["had_server_model"][r]):
            table, rho = twin.merge(
                trace["item_table_end"][r - 1, user],
                server_table(trace, r, user),
                adapter_at(trace, "_end", (r - 1, user)),
            )
            np.testing.assert_allclose(rho, trace["merge_rho"][r, user], atol=2e-6, rtol=0)
            expected = trace["item_table_start"][r, user]
            np.testing.assert_allclose(table, expected, atol=2e-6, rtol=0)


def test_merge_with_a_constant_weight():
    case = Case()
    for share, expected in [(0.0, case.table), (1.0, case.server)]:
        table, rho = twin.merge(case.table, case.server, share)
        np.testing.assert_allclose(table, expected, atol=1e-15)
        assert (rho == share).all()


@pytest.mark.parametrize("j", CASES)
def test_adam_on_recorded_gradients(trace, config, j):
    r, user, rows = (trace[f"steps{j}_{name}"] for name in ("round", "client", "rows"))
    params = [
        trace["user_embedding_start"][r, user],
        trace["item_table_start"][r, user][rows],
    ]
    moments = twin.adam_init(params)
    for t in range(len(trace[f"steps{j}_user"])):
        grads = [trace[f"steps{j}_user_grad"][t], trace[f"steps{j}_items_grad"][t]]
        params, moments = twin.adam(params, grads, moments, config["lr_embedding"])
        for x, name in zip(params, ("user", "items"), strict=True):
            np.testing.assert_allclose(x, trace[f"steps{j}_{name}"][t], atol=5e-6, rtol=0)


@pytest.mark.parametrize("j", CASES)
def test_each_step_from_recorded_parameters(trace, config, j):
    r, user, rows = (trace[f"steps{j}_{name}"] for name in ("round", "client", "rows"))
    server = server_table(trace, r, user)
    items, labels, orders = samples(trace, r, user)
    items = np.searchsorted(rows, items)
    batches = [
        batch
        for order in orders[: trace["epochs_run"][r, user]]
        for batch in np.split(order, range(config["batch_size"], len(order), config["batch_size"]))
    ]
    client = twin.start_client(
        trace["user_embedding_start"][r, user],
        trace["item_table_start"][r, user][rows],
        adapter_at(trace, "_start", (r, user)),
    )
    server = None if server is None else server[rows]
    for t, batch in enumerate(batches):
        batch = items[batch], labels[batch]
        recorded = adapter_at(trace, "", t, prefix=f"steps{j}_")
        if server is not None:
            client, _ = twin.adapter_step(
                client, server, *batch, config["lr_adapter"], "probability"
            )
        for x, expected in zip(twin.flatten(client.adapter), twin.flatten(recorded), strict=True):
            np.testing.assert_allclose(x, expected, atol=1e-4, rtol=0)
        grads = twin.gradients(client.user, client.table, server, recorded, *batch, "probability")
        for name in ("user", "table"):
            expected = trace[f"steps{j}_{name.replace('table', 'items')}_grad"][t]
            np.testing.assert_allclose(getattr(grads, name), expected, atol=2e-6, rtol=1e-5)
        client = client._replace(
            user=trace[f"steps{j}_user"][t], table=trace[f"steps{j}_items"][t], adapter=recorded
        )


def test_client_rounds_end_as_recorded(trace, replay):
    """Tables and user vectors after local training; rows without a sample do not move at all."""
    touched = []
    for (r, user), result in replay.items():
        rows = np.unique(samples(trace, r, user)[0])
        still = np.delete(np.arange(len(result.table)), rows)
        assert (result.table[still] == trace["item_table_start"][r, user][still]).all()
        touched.append((result.table - trace["item_table_end"][r, user])[rows].ravel())
        expected = trace["user_embedding_end"][r, user]
        np.testing.assert_allclose(result.user, expected, atol=3e-4, rtol=0)
    deviation = np.abs(np.concatenate(touched))
    assert deviation.mean() < 2e-5
    assert (deviation < 1e-4).mean() > 0.995
    assert deviation.max() < 2e-2


def test_client_rounds_end_with_the_recorded_adapters(trace, replay):
    deviations = []
    for (r, user), result in replay.items():
        recorded = twin.flatten(adapter_at(trace, "_end", (r, user)))
        for x, expected in zip(twin.flatten(result.adapter), recorded, strict=True):
            if trace["had_server_model"][r, user]:
                deviations.append(np.abs(x - expected).ravel())
            else:
                assert (x == expected).all()
    deviation = np.concatenate(deviations)
    assert deviation.mean() < 5e-5
    assert (deviation < 1e-4).mean() > 0.99
    assert deviation.max() < 3e-2


def test_client_rounds_have_the_recorded_losses(trace, replay):
    for (r, user), result in replay.items():
        assert result.epochs == trace["epochs_run"][r, user]
        batches = result.batch_loss.shape[1]
        for name in ("batch_loss", "batch_loss_adapter"):
            expected = trace[name][r, user][:, :batches]
            np.testing.assert_allclose(getattr(result, name), expected, atol=1e-4, rtol=0)
        expected = trace["epoch_running_loss"][r, user]
        np.testing.assert_allclose(result.running_loss, expected, atol=5e-5, rtol=0)


def test_early_stop_on_recorded_losses(trace, config):
    for r, user in np.ndindex(trace["epochs_run"].shape):
        epochs = trace["epochs_run"][r, user]
        losses = trace["epoch_running_loss"][r, user, :epochs].astype(float)
        stops = [
            twin.has_converged(losses[e], losses[e - 1], config["threshold"])
            for e in range(1, epochs)
        ]
        assert not any(stops[:-1])
        assert stops[-1] or epochs == config["local_epoch"]
    assert not twin.has_converged(1e-5, 0.0, 0.9)  # a change by 1e-5 / (0 + 1e-5)


def test_each_step_has_its_own_learning_rate():
    case = Case()
    adapter_only = case.train(case.server, lr_embedding=0.0)
    assert (adapter_only.user == case.user).all()
    assert (adapter_only.table == case.table).all()
    assert (adapter_only.adapter[0][0] != case.adapter[0][0]).any()
    embedding_only = case.train(case.server, lr_adapter=0.0)
    assert (embedding_only.adapter[0][0] == case.adapter[0][0]).all()
    assert (embedding_only.user != case.user).all()
    np.testing.assert_array_equal(embedding_only.batch_loss_adapter, embedding_only.batch_loss)


def test_once_is_the_adapter_first_and_plain_training_after():
    case = Case()
    result = case.train(case.server, merging="once")
    merged, _ = twin.merge(case.table, case.server, result.adapter)
    plain = case.train(None, table=merged)
    for name in ("user", "table", "batch_loss", "running_loss", "epochs"):
        np.testing.assert_array_equal(getattr(result, name), getattr(plain, name))
    assert result.batch_loss_adapter[-1].mean() < result.batch_loss_adapter[0].mean()


def test_each_phase_of_once_stops_early():
    case = Case()
    result = case.train(case.server, merging="once", threshold=10.0)
    assert result.epochs == 2
    for losses in (result.batch_loss, result.batch_loss_adapter):
        assert (losses[:2] != twin.ABSENT).all()
        assert (losses[2:] == twin.ABSENT).all()


# --- server ---------------------------------------------------------------------------------------


def test_principal_scores_up_to_sign(trace):
    for r, users in enumerate(trace["agg_participants"]):
        for user, expected in zip(users, trace["pca_projection"][r], strict=True):
            scores = twin.principal_scores(trace["item_table_end"][r, user].astype(float))
            scores *= np.sign(scores @ expected)
            np.testing.assert_allclose(scores, expected, atol=5e-4, rtol=0)


def test_principal_scores_ignore_the_sign_of_the_decomposition():
    table = Case().table
    scores = twin.principal_scores(table)
    np.testing.assert_allclose(twin.principal_scores(-table), -scores)  # v_1 is the same
    np.testing.assert_allclose(twin.principal_scores(table[::-1]), scores[::-1])


def test_similarity_and_weights(trace, config):
    for r in range(config["global_round"]):
        recorded = trace["similarity"][r]
        kind, aggregation = config["sim_mode"], config["agg_mode"]
        values = twin.similarity(trace["pca_projection"][r].astype(float), kind)
        np.testing.assert_allclose(values, recorded, atol=2e-6, rtol=0)
        weights = twin.aggregation_weights(
            trace["agg_sample_count"][r], recorded.astype(float), aggregation, config["alpha"]
        )
        np.testing.assert_allclose(weights, trace["agg_matrix"][r], atol=2e-6, rtol=0)
        users = trace["agg_participants"][r]
        tables = twin.aggregate(trace["agg_matrix"][r], trace["item_table_end"][r, users])
        np.testing.assert_allclose(tables, trace["server_item_table"][r], atol=1e-5, rtol=0)


def test_cosine_similarity():
    scores = np.array([[1.0, 0], [3, 4], [-1, 0], [10, 1]])
    expected = [[1, 0.6, 0, 1], [0.6, 1, 0, 34 / 5 / 101**0.5], [0, 0, 1, 0]]
    np.testing.assert_allclose(twin.similarity(scores, "cos")[:3], expected)


def test_weights_without_quadratic_program():
    counts, similarity = np.array([1, 3]), np.array([[1.0, 0.25], [0, 1]])
    shares = twin.aggregation_weights(counts, None, "avg", 0.9)
    np.testing.assert_allclose(shares, [[0.25, 0.75], [0.25, 0.75]])
    rows = twin.aggregation_weights(counts, similarity, "sim", 0.9)
    np.testing.assert_allclose(rows, [[0.8, 0.2], [0, 1]])


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0])
def test_project_simplex_is_optimal(scale):
    """Karush-Kuhn-Tucker: v - w is one number on the support of w, and v is at most that off it."""
    rng = np.random.default_rng(0)
    for v in (rng.normal(0, scale, rng.integers(1, 30)).round(3) for _ in range(200)):
        w = twin.project_simplex(v)
        assert (w >= 0).all()
        assert w.sum() == pytest.approx(1)
        shift = (v - w)[w > 0]
        np.testing.assert_allclose(shift, shift[0], atol=1e-12)
        assert (v[w == 0] <= shift[0] + 1e-12).all()


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_from_recorded_tables(trace, config):
    """Each client scores with the model it would use: aggregated ones with their merged table."""
    k = config["top_k"]
    for r, users in enumerate(trace["agg_participants"]):
        held_out = trace["val_item"], trace["test_item"]
        logits = np.empty((len(trace["val_item"]), 101), np.float32)
        for user, (val, test) in enumerate(zip(*held_out, strict=True)):
            table = trace["item_table_end"][r, user]
            if user in users:
                new = trace["server_item_table"][r][list(users).index(user)]
                table, _ = twin.merge(table, new, adapter_at(trace, "_end", (r, user)))
            candidates = [val, test, *trace["eval_negatives"][user]]
            logits[user] = table[candidates] @ trace["user_embedding_end"][r, user]
        negatives = logits[:, 2:]
        np.testing.assert_allclose(negatives, trace["neg_logit"][r], atol=3e-5, rtol=0)
        for column, name in enumerate(("val", "test")):
            positive = logits[:, column]
            np.testing.assert_allclose(positive, trace[f"{name}_logit"][r], atol=3e-5, rtol=0)
            ranks = twin.rank(twin.sigmoid(positive), twin.sigmoid(negatives))
            np.testing.assert_array_equal(ranks, trace[f"{name}_rank"][r])
            assert twin.hit_rate(ranks, k).mean() == pytest.approx(trace[f"{name}_hr"][r], abs=1e-9)
            assert twin.ndcg(ranks, k).mean() == pytest.approx(trace[f"{name}_ndcg"][r], abs=1e-9)


def test_metric_unit_vectors_with_ties(trace):
    positive, negatives = trace["metric_pos"], trace["metric_neg"]
    for case in range(len(positive)):
        if np.isnan(positive[case]).any() or np.isnan(negatives[case]).any():
            with pytest.raises(ValueError, match="finite"):
                twin.rank(positive[case], negatives[case])
            continue
        ranks = twin.rank(positive[case], negatives[case])
        assert twin.hit_rate(ranks, 10).mean() == pytest.approx(trace["metric_hr"][case], abs=1e-9)
        assert twin.ndcg(ranks, 10).mean() == pytest.approx(trace["metric_ndcg"][case], abs=1e-9)


def test_rank_among_ties():
    positive, negatives = np.array([2.0]), np.array([[3.0, 2, 2, 1]])
    assert twin.rank(positive, negatives, "pessimistic") == [4]
    assert twin.rank(positive, negatives, "average") == [3]

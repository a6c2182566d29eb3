"""FedEM once more in plain NumPy, one client and one batch at a time: what the JAX code must equal.

Every gradient is written by hand. Functions compute in the dtype of their inputs; `local_train`
casts to its `dtype`, float64 unless told otherwise. Letters: I items, d width, S samples of a
client in a round, E epochs, B batches of an epoch, A aggregated clients, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Adapter = list[tuple[Array, Array]]  # (kernel [in, out], bias [out]) of each layer, input first

ABSENT = -1.0  # stands for the loss of a batch or an epoch that was not run


# --- loss and gradients ---------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); 0 where the exponential overflows."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def bce(logit: Array, label: Array, form: str) -> tuple[Array, Array]:
    """Binary cross-entropy l of each sample and dl/dlogit.

    "probability": on the float32 p = sigmoid(z), logs cut at -100, and with s = p (1 - p)
        dl/dz = (p - y) s / max(s, 1e-12),  which is 0 where p has been rounded to 0 or 1;
    "logit": l = log(1 + e^z) - y z,  dl/dz = sigmoid(z) - y,  accurate for any z.
    """
    if form == "logit":
        loss = np.maximum(logit, 0) - label * logit + np.log1p(np.exp(-np.abs(logit)))
        return loss, (1 - label) * sigmoid(logit) - label * sigmoid(-logit)
    p, y = sigmoid(logit.astype(np.float32)), label.astype(np.float32)
    with np.errstate(divide="ignore"):
        log_p, log_not_p = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    loss = -(y * log_p + (1 - y) * log_not_p)
    s = (1 - p) * p
    slope = (p - y) * s / np.maximum(s, np.float32(1e-12))
    return loss.astype(logit.dtype), slope.astype(logit.dtype)


def adapter_forward(params: Adapter, x: Array) -> tuple[Array, list[Array]]:
    """rho = sigmoid(MLP(x)) [n] for the rows x [n, 2 d], and the input of each layer (ReLU)."""
    inputs = [x]
    for kernel, bias in params[:-1]:
        inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
    kernel, bias = params[-1]
    return sigmoid(inputs[-1] @ kernel + bias)[:, 0], inputs


def adapter_backward(
    params: Adapter, inputs: list[Array], rho: Array, rho_grad: Array
) -> tuple[Adapter, Array]:
    """Chain rule through `adapter_forward`: gradients of the parameters and of the rows x."""
    grads: Adapter = []
    grad = (rho_grad * rho * (1 - rho))[:, None]  # with respect to the last layer's output
    for (kernel, _), x in zip(reversed(params), reversed(inputs), strict=True):
        grads.insert(0, (x.T @ grad, grad.sum(0)))
        x_grad = grad @ kernel.T
        grad = x_grad * (x > 0)  # x is the ReLU of the layer below, except for the first layer
    return grads, x_grad


def merge(q: Array, g: Array, adapter: Adapter | float) -> tuple[Array, Array]:
    """Elastic merging (step 2): q + rho (g - q), rho = sigmoid(MLP([q ; g - q])) or a constant."""
    if isinstance(adapter, list):
        rho, _ = adapter_forward(adapter, np.concatenate([q, g - q], axis=1))
    else:
        rho = np.full(len(q), adapter, q.dtype)
    return q + rho[:, None] * (g - q), rho


class Gradients(NamedTuple):
    """Mean loss of a batch and its gradients."""

    loss: float
    user: Array  # [d]
    table: Array  # [I, d], zero rows for items outside the batch
    adapter: Adapter  # empty without a server table


def gradients(
    user: Array,
    table: Array,
    server: Array | None,
    adapter: Adapter,
    items: Array,
    labels: Array,
    form: str,
) -> Gradients:
    """Mean BCE of the scores p . m over one batch (step 3), with everything it depends on.

    m = q + rho (g - q), rho through the adapter and g constant; m = q without a server table.
    An item met several times adds up its gradients.
    """
    q = table[items]
    if server is None:
        merged = q
    else:
        delta = server[items] - q
        rho, inputs = adapter_forward(adapter, np.concatenate([q, delta], axis=1))
        merged = q + rho[:, None] * delta

    loss, slope = bce(merged @ user, labels, form)
    slope = slope / len(items)
    user_grad = slope @ merged
    merged_grad = np.outer(slope, user)

    if server is None:
        q_grad, adapter_grad = merged_grad, []
    else:
        rho_grad = (merged_grad * delta).sum(1)
        adapter_grad, x_grad = adapter_backward(adapter, inputs, rho, rho_grad)
        through_q, through_delta = np.split(x_grad, 2, axis=1)
        q_grad = merged_grad * (1 - rho[:, None]) + through_q - through_delta

    table_grad = np.zeros_like(table)
    np.add.at(table_grad, items, q_grad)
    return Gradients(float(loss.mean()), user_grad, table_grad, adapter_grad)


# --- local training -------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Adam's memory: steps taken, running means of the gradients and of their squares."""

    count: int
    mean: list[Array]
    square: list[Array]


def adam_init(params: Sequence[Array]) -> Moments:
    """No step taken yet: all zero."""
    return Moments(0, [np.zeros_like(x) for x in params], [np.zeros_like(x) for x in params])


def adam(
    params: Sequence[Array], grads: Sequence[Array], moments: Moments, lr: float
) -> tuple[list[Array], Moments]:
    """One dense Adam step: betas 0.9 and 0.999, eps 1e-8, bias correction, no weight decay."""
    count = moments.count + 1
    mean = [0.9 * m + 0.1 * g for m, g in zip(moments.mean, grads, strict=True)]
    square = [0.999 * v + 0.001 * g * g for v, g in zip(moments.square, grads, strict=True)]
    moved = [
        x - lr * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        for x, m, v in zip(params, mean, square, strict=True)
    ]
    return moved, Moments(count, mean, square)


class Client(NamedTuple):
    """What a client trains, and the two optimisers that it creates anew in each round."""

    user: Array  # p [d]
    table: Array  # Q [I, d]
    adapter: Adapter  # Theta
    embedding_moments: Moments  # of p and Q
    adapter_moments: Moments


def start_client(user: Array, table: Array, adapter: Adapter) -> Client:
    """A client before its first batch of the round."""
    return Client(user, table, adapter, adam_init([user, table]), adam_init(flatten(adapter)))


def flatten(adapter: Adapter) -> list[Array]:
    """Kernel and bias of each layer, in one list."""
    return [array for layer in adapter for array in layer]


def adapter_step(
    client: Client, server: Array, items: Array, labels: Array, lr: float, form: str
) -> tuple[Client, float]:
    """Step 3, first half: Adam on Theta, p and Q held; returns the loss before the step."""
    grads = gradients(client.user, client.table, server, client.adapter, items, labels, form)
    flat, moments = adam(
        flatten(client.adapter), flatten(grads.adapter), client.adapter_moments, lr
    )
    adapter = list(zip(flat[::2], flat[1::2], strict=True))
    return client._replace(adapter=adapter, adapter_moments=moments), grads.loss


def embedding_step(
    client: Client, server: Array | None, items: Array, labels: Array, lr: float, form: str
) -> tuple[Client, float]:
    """Step 3, second half: Adam on p and Q, Theta held; returns the loss before the step."""
    grads = gradients(client.user, client.table, server, client.adapter, items, labels, form)
    (user, table), moments = adam(
        [client.user, client.table], [grads.user, grads.table], client.embedding_moments, lr
    )
    return client._replace(user=user, table=table, embedding_moments=moments), grads.loss


def has_converged(running: float, previous: float, threshold: float) -> bool:
    """Early stop (step 3): |l_e - l_{e-1}| / |l_{e-1} + 1e-5| < threshold."""
    return abs(running - previous) / abs(previous + 1e-5) < threshold


def train_epochs(
    step: Callable[[Client, Array], tuple[Client, tuple[float, float]]],
    client: Client,
    orders: Array,
    batch_size: int,
    threshold: float,
) -> tuple[Client, Array, Array]:
    """Visit the samples in each of `orders` [E, S], in batches, until the early stop.

    Args:
        step: one batch, given its sample positions; returns two losses, the first of which
            enters the running mean over all samples seen so far that decides on the stop.

    Returns:
        client, losses [2, E, B], running mean loss [E]; ABSENT where not run.
    """
    cuts = range(batch_size, orders.shape[1], batch_size)
    losses = np.full((2, len(orders), len(cuts) + 1), ABSENT)
    running = np.full(len(orders), ABSENT)
    total, seen = 0.0, 0
    for e, order in enumerate(orders):
        for b, batch in enumerate(np.split(order, cuts)):
            client, losses[:, e, b] = step(client, batch)
            total += losses[0, e, b] * len(batch)
            seen += len(batch)
        running[e] = total / seen
        if e > 0 and has_converged(running[e], running[e - 1], threshold):
            break
    return client, losses, running


class LocalResult(NamedTuple):
    """A client after its local training; losses are ABSENT where no such batch was run."""

    user: Array  # [d]
    table: Array  # [I, d], what is uploaded
    adapter: Adapter
    batch_loss: Array  # [E, B], before each embedding step
    batch_loss_adapter: Array  # [E, B], before each adapter step
    running_loss: Array  # [E], mean over all samples seen so far of the embedding steps' loss
    epochs: int  # epochs of embedding steps


def local_train(
    user: Array,
    table: Array,
    server: Array | None,
    adapter: Adapter,
    items: Array,
    labels: Array,
    orders: Array,
    *,
    batch_size: int,
    lr_embedding: float,
    lr_adapter: float,
    threshold: float,
    bce: str = "probability",
    merging: str = "per-batch",
    dtype: DTypeLike = np.float64,
) -> LocalResult:
    """Local training of one client in one round (step 3).

    Without a server table: an embedding step per batch. With one,
    "per-batch": an adapter step, then an embedding step, both scoring with merged rows;
    "once": up to E epochs of adapter steps with p and Q held; then Q is replaced by the merged
        table; then up to E epochs of embedding steps on plain rows, in the same orders. Each
        phase has its own optimiser, running mean and early stop.

    Args:
        table: Q at the start, for "per-batch" already merged by step 2.
        items, labels: [S], the client's samples of this round.
        orders: [E, S], positions in the sample list in the order visited.
        bce: form of the loss.
    """
    user, table, labels = (np.asarray(x, dtype) for x in (user, table, labels))
    adapter = [(kernel.astype(dtype), bias.astype(dtype)) for kernel, bias in adapter]
    server = None if server is None else server.astype(dtype)

    def fit_adapter(client, batch):
        client, loss = adapter_step(client, server, items[batch], labels[batch], lr_adapter, bce)
        return client, (loss, ABSENT)

    def fit_embedding(client, batch):
        client, loss = embedding_step(client, None, items[batch], labels[batch], lr_embedding, bce)
        return client, (loss, ABSENT)

    def fit_both(client, batch):
        batch = items[batch], labels[batch]
        client, loss_adapter = adapter_step(client, server, *batch, lr_adapter, bce)
        client, loss = embedding_step(client, server, *batch, lr_embedding, bce)
        return client, (loss, loss_adapter)

    schedule = orders, batch_size, threshold
    client = start_client(user, table, adapter)
    if server is None:
        client, (loss, loss_adapter), running = train_epochs(fit_embedding, client, *schedule)
    elif merging == "per-batch":
        client, (loss, loss_adapter), running = train_epochs(fit_both, client, *schedule)
    elif merging == "once":
        client, (loss_adapter, _), _ = train_epochs(fit_adapter, client, *schedule)
        merged, _ = merge(table, server, client.adapter)
        client = start_client(user, merged, client.adapter)
        client, (loss, _), running = train_epochs(fit_embedding, client, *schedule)
    else:
        raise ValueError(f"no such way of merging: {merging}")
    epochs = int((running != ABSENT).sum())
    return LocalResult(*client[:3], loss, loss_adapter, running, epochs)


# --- server ---------------------------------------------------------------------------------------


def principal_scores(table: Array) -> Array:
    """x = (Q - mean_rows) v_1 [I] (step 4); the largest entry of v_1 in magnitude is positive."""
    centred = table - table.mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    return centred @ direction * np.sign(direction[np.abs(direction).argmax()])


def similarity(scores: Array, kind: str) -> Array:
    """s_uv [A, A] of the scores [A, I] (step 4); entries above 0.9 become 1.

    "l2": 1 / (1 + |x_u - x_v|);  "cos": max(0, x_u . x_v / |x_u| |x_v|).
    """

    def pair(x: Array, y: Array) -> float:
        if kind == "l2":
            return 1 / (1 + np.linalg.norm(x - y))
        return max(0.0, x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    values = np.array([[pair(x, y) for y in scores] for x in scores])
    return np.where(values > 0.9, 1.0, values)


def project_simplex(v: Array) -> Array:
    """argmin_w |w - v|^2 subject to w >= 0, sum w = 1: drop entries until none is negative."""
    support = np.ones(len(v), bool)
    while True:
        shift = (v[support].sum() - 1) / support.sum()
        remaining = support & (v > shift)
        if (remaining == support).all():
            return np.where(support, v - shift, 0)
        support = remaining


def aggregation_weights(
    counts: Array, similarity: Array | None, aggregation: str, alpha: float
) -> Array:
    """W [A, A], row u the weights of u's aggregated table (step 4); p = counts / sum counts.

    "avg": p;  "sim": s_u;  "both": argmin_w |w|^2 - 2 (p + alpha s_u) . w on the simplex.
    """
    p = counts / counts.sum()
    if aggregation == "avg":
        weights = np.tile(p, (len(p), 1))
    elif aggregation == "sim":
        weights = similarity
    else:
        weights = np.array([project_simplex(p + alpha * row) for row in similarity])
    weights = np.where(weights < 1e-20, 0, weights)
    return weights / weights.sum(1, keepdims=True)


def aggregate(weights: Array, tables: Array) -> Array:
    """G_u = sum_v W_uv Q_v [A, I, d] (step 4)."""
    return np.array([sum(w * q for w, q in zip(row, tables, strict=True)) for row in weights])


# --- evaluation -----------------------------------------------------------------------------------


def rank(positive: Array, negatives: Array, ties: str = "pessimistic") -> Array:
    """Rank [...] of the score `positive` [...] among it and `negatives` [..., K], from 1.

    "pessimistic": equal negatives rank before it;  "average": half of them do.

    Raises:
        ValueError: a score is not finite.
    """
    if not (np.isfinite(positive).all() and np.isfinite(negatives).all()):
        raise ValueError("a score is not finite")
    above = (negatives > positive[..., None]).sum(-1)
    equal = (negatives == positive[..., None]).sum(-1)
    return 1 + above + (equal if ties == "pessimistic" else equal / 2)


def hit_rate(rank: Array, k: int) -> Array:
    """HR@k of each user, 0 or 1: whether the held-out item is in the list of length k."""
    return np.where(rank <= k, 1.0, 0.0)


def ndcg(rank: Array, k: int) -> Array:
    """NDCG@k of each user, in [0, 1], with one relevant item: 1 / log2(1 + rank) if rank <= k."""
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)

"""The NCF backbone once more in plain NumPy, client by client: what the JAX code must equal.

Gradients are written by hand, for the stable loss. NeuMF is held as He et al. draw it: its last
layer goes over both branches, put side by side. Letters: d width, S samples of a client, n rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import twin
from twin import Adapter, Array, Moments


class Network(NamedTuple):
    """An MLP over the last entries of user vector and row, and the product of the first ones."""

    layers: list[tuple[Array, Array]]  # kernel [in, out] and bias [out], input first
    cut: int  # entries that are multiplied; 0 without such a branch

    @classmethod
    def of(cls, params: dict[str, Any]) -> Network:
        """From the parameters of the JAX network."""
        dense = [params[f"Dense_{k}"] for k in range(sum(name != "GMF" for name in params))]
        layers = [(np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in dense]
        products = np.float64(params["GMF"]["kernel"]) if "GMF" in params else np.zeros((0, 1))
        kernel, bias = layers[-1]
        return cls([*layers[:-1], (np.concatenate([kernel, products]), bias)], len(products))

    def flat(self) -> list[Array]:
        """Kernel and bias of each layer, in one list."""
        return twin.flatten(self.layers)

    def like(self, flat: list[Array]) -> Network:
        """This network with other weights."""
        return self._replace(layers=list(zip(flat[::2], flat[1::2], strict=True)))


def forward(network: Network, user: Array, rows: Array) -> tuple[Array, list[Array]]:
    """Logits [n] of rows [n, d], and the input of each layer."""
    cut = network.cut
    hidden, inputs = np.concatenate([np.tile(user[cut:], (len(rows), 1)), rows[:, cut:]], 1), []
    for kernel, bias in network.layers[:-1]:
        inputs.append(hidden)
        hidden = np.maximum(hidden @ kernel + bias, 0)
    inputs.append(np.concatenate([hidden, user[:cut] * rows[:, :cut]], axis=1))
    kernel, bias = network.layers[-1]
    return (inputs[-1] @ kernel + bias)[:, 0], inputs


def backward(
    network: Network, user: Array, rows: Array, inputs: list[Array], slope: Array
) -> tuple[Array, Array, list[Array]]:
    """Chain rule from the slopes [n] of the loss in the logits: gradients of user [d], rows [n, d]
    and network, as `Network.flat`."""
    cut, grad, grads = network.cut, slope[:, None], []
    for (kernel, _), x in zip(reversed(network.layers), reversed(inputs), strict=True):
        grads = [x.T @ grad, grad.sum(0), *grads]
        below = grad @ kernel.T
        if len(grads) == 2:  # the last layer, whose last inputs are the products
            below, products = np.split(below, [below.shape[1] - cut], axis=1)
            x = x[:, : below.shape[1]]
        grad = below * (x > 0)  # x is the ReLU of the layer below, except for the first layer
    of_user, of_rows = np.split(below, 2, axis=1)
    user_grad = np.concatenate([(products * rows[:, :cut]).sum(0), of_user.sum(0)])
    return user_grad, np.concatenate([products * user[:cut], of_rows], axis=1), grads


class Client(NamedTuple):
    """What a client trains, and the optimisers that it creates anew in each round."""

    user: Array  # p [d]
    table: Array  # Q [I, d]
    network: Network
    adapter: Adapter  # Theta; empty where there is none
    embedding_moments: Moments  # of p and Q
    network_moments: Moments
    adapter_moments: Moments

    @classmethod
    def start(cls, user: Array, table: Array, network: Network, adapter: Adapter) -> Client:
        """Before the first batch of the round."""
        groups = ([user, table], network.flat(), twin.flatten(adapter))
        return cls(user, table, network, adapter, *map(twin.adam_init, groups))


def gradients(client: Client, server: Array | None, items: Array, labels: Array):
    """Mean loss of a batch; its gradients for [p, Q], network and adapter, scored with the merged
    rows q + rho (g - q) if there is a server table g."""
    user, table, network, adapter = client[:4]
    rows = q = table[items]
    if server is not None:
        delta = server[items] - q
        rho, adapter_inputs = twin.adapter_forward(adapter, np.concatenate([q, delta], axis=1))
        rows = q + rho[:, None] * delta
    logits, inputs = forward(network, user, rows)
    loss, slope = twin.bce(logits, labels, "logit")
    user_grad, rows_grad, network_grad = backward(network, user, rows, inputs, slope / len(items))
    q_grad, adapter_grad = rows_grad, []
    if server is not None:
        rho_grad = (rows_grad * delta).sum(1)
        adapter_grad, x_grad = twin.adapter_backward(adapter, adapter_inputs, rho, rho_grad)
        through_q, through_delta = np.split(x_grad, 2, axis=1)
        q_grad = rows_grad * (1 - rho[:, None]) + through_q - through_delta
    table_grad = np.zeros_like(table)
    np.add.at(table_grad, items, q_grad)
    return loss.mean(), [user_grad, table_grad], network_grad, twin.flatten(adapter_grad)


def adapter_step(client: Client, server: Array, items: Array, labels: Array, config):
    """Adam on Theta, all else held; returns the loss before the step."""
    loss, _, _, grads = gradients(client, server, items, labels)
    flat, moments = twin.adam(
        twin.flatten(client.adapter), grads, client.adapter_moments, config.lr_adapter
    )
    adapter = list(zip(flat[::2], flat[1::2], strict=True))
    return client._replace(adapter=adapter, adapter_moments=moments), loss


def model_step(client: Client, server: Array | None, items: Array, labels: Array, config):
    """Adam on p and Q, and on the network, to whose gradient its L2 penalty is added first."""
    loss, grads, network_grads, _ = gradients(client, server, items, labels)
    (user, table), embedding_moments = twin.adam(
        [client.user, client.table], grads, client.embedding_moments, config.lr_embedding
    )
    weights = client.network.flat()
    decayed = [g + config.weight_decay * w for g, w in zip(network_grads, weights, strict=True)]
    flat, network_moments = twin.adam(weights, decayed, client.network_moments, config.lr_network)
    return client._replace(
        user=user, table=table, network=client.network.like(flat),
        embedding_moments=embedding_moments, network_moments=network_moments,
    ), loss  # fmt: skip


def local_train(client: Client, server: Array | None, drawn, config) -> tuple[Client, int]:
    """A client's round, and the epochs it ran. With a server table: an adapter step and then a
    model step per batch, both on merged rows (`merging = per-batch`); else model steps."""

    def step(client, batch):
        batch = drawn.items[batch], drawn.labels[batch]
        if server is not None:
            client, _ = adapter_step(client, server, *batch, config)
        client, loss = model_step(client, server, *batch, config)
        return client, (loss, twin.ABSENT)

    return run(step, client, drawn, config)


def fit_adapter(client: Client, server: Array, drawn, config) -> Client:
    """Epochs of adapter steps, all else held (`merging = once`)."""

    def step(client, batch):
        client, loss = adapter_step(
            client, server, drawn.items[batch], drawn.labels[batch], config
        )  # fmt: skip
        return client, (loss, twin.ABSENT)

    return run(step, client, drawn, config)[0]


def run(step, client: Client, drawn, config) -> tuple[Client, int]:
    client, _, running = twin.train_epochs(
        step, client, drawn.orders, config.batch_size, config.threshold
    )
    return client, int((running != twin.ABSENT).sum())

"""Compiled rounds of a method that start from any state, and comparisons of what came of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from toy import small_federation

from fedem_jax.config.registry import METHODS
from fedem_jax.core.layout import is_per_device
from fedem_jax.runs.simulation import Simulation

SMALL = {
    "dim": 4, "local_epochs": 3, "batch_size": 16, "num_negative": 2, "lr_embedding": 0.03,
    "lr_adapter": 0.03, "threshold": 0.02, "bce": "logit", "client_fraction": 0.9,
    "aggregation_fraction": 0.7, "block_size": 1, "size_classes": 1, "num_clusters": 3,
}  # fmt: skip
"""Where a method has such a setting."""
OWN = {
    "pfedrec": {"lr_network": 0.05, "lr_item_factor": 1.0},
    "fcf": {"init_scale": 1.0, "lr_server": 0.01},
    "gpfedrec": {"lr_network": 0.05, "lr_factor": 1.0, "client_fraction": 1.0},
    "fedrap": {"lr_network": 0.05, "lr_embedding": 1.0},
    "cofedrec": {"lr_network": 0.05, "lr_item_factor": 1.0},
    "item-knn": {"neighbours": 5, "shrinkage": 0.5},
    "ease": {"l2": 2.0},
}
"""Gentle steps, where the names mean something else; GPFedRec needs everybody."""


def config_of(method, **changes):
    """A small configuration; `changes` apply to the methods that have such settings."""
    values = SMALL | OWN.get(method, {}) | changes
    settings = METHODS[method].settings
    known = {field.name for field in dataclasses.fields(settings)}
    return settings(**{name: value for name, value in values.items() if name in known})


class Lab:
    """Compiled rounds of a method, from any state, with any key, data and numbers."""

    def __init__(self, config, devices=1, federation=None, kind=Simulation):
        federation = federation or small_federation(config.protocol)
        self.simulation = kind(config, federation, jax.devices()[:devices])
        self.start = self.simulation.init()
        self.traces, method = 0, self.simulation.algorithm

        def counted(*args):
            self.traces += 1
            return method.round(*args)

        self.simulation.algorithm = method._replace(round=counted)
        self.program = jax.jit(self.simulation._rounds, static_argnums=0)
        self.rest = (
            self.simulation.key_draws,
            self.simulation.lists,
            self.simulation.held_out,
            method.hyper,
        )

    def segment(self, state, number, length=1, **changed):
        """State, what each round reported, and ranks, after some rounds."""
        names = ("key", "lists", "held_out", "hyper")
        rest = {**dict(zip(names, self.rest, strict=True)), **changed}
        with jax.default_matmul_precision("highest"):
            return self.program(length, state, jnp.int32(number), *(rest[name] for name in names))

    def run(self, rounds=3, length=1, **changed):
        """The last segment of a run."""
        state = self.start
        for number in range(0, rounds, length):
            state, info, ranks = self.segment(state, number, length, **changed)
        return jax.tree.map(np.asarray, (state, info, ranks))


DRAWN = [name for name, (kind, _) in METHODS.items() if not kind.one_round]
"""Methods that draw something. The references with a closed form are the same for all seeds."""


def own(clients):
    """The parameters that belong to one client alone."""
    if clients == ():
        return ()  # all is the server's
    return clients.private if hasattr(clients, "private") else clients.user


def waiting_tables(layout, state):
    """The table that waits for each client, by its number; clients that none waits for are not
    among them."""
    tables, slots = (
        np.asarray(jax.tree.leaves(state.server.items)[0]),
        np.asarray(state.clients.slot),
    )
    each = len(tables) // layout.mesh.size if is_per_device(state.server.items) else 0
    rows = layout.place // layout.shard * each + slots[layout.place]
    return {n: tables[rows[n]] for n in range(layout.num_clients) if slots[layout.place[n]] >= 0}


def assert_same(ours, theirs, **tolerance):
    """Equal trees; to the bit without a tolerance."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if tolerance:
            np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))
        else:
            np.testing.assert_array_equal(x, y)


def differs(ours, theirs):
    """Whether a floating-point leaf of a tree changed at all."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)

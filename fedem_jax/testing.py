"""`check_method`: holds a method of your own to what the methods of this package keep to."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.config.protocol import preset
from fedem_jax.data.federation import Federation
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic
from fedem_jax.runs.asking import Clients
from fedem_jax.runs.simulation import Simulation

TOLERANCE = 1e-4
"""Largest difference of scores, relative and absolute, where sums have another order."""


def check_method(config: Config, federation: Federation | None = None) -> None:
    """Check a method by two rounds on a small federation.

    A round keeps shapes and types. All numbers are finite. The same seed gives the same bits, and
    another seed gives others. Two rounds in one program are those of two programs. And nothing
    depends on how clients are divided into blocks, size classes and devices.

    Args:
        config: settings of the method; few and gentle steps keep the comparison sharp.
        federation: the data; None: 24 clients and 80 items, made up.

    Raises:
        AssertionError: the method breaks one of these rules; the sentence says which.
        UserError: the settings do not fit the data.
    """
    data = made_up() if federation is None else federation
    plain = dataclasses.replace(config, block_size=1, size_classes=1)
    simulation = Simulation(plain, data, jax.devices()[:1])
    start = simulation.init()
    _check_shapes(simulation, start)

    state, loss = _after_two(simulation)
    scores = _scores(simulation, state)
    for name, values in {"loss": loss, "scores": scores}.items():
        assert np.isfinite(values).all(), f"{name}: not finite after two rounds"

    again, _ = _after_two(Simulation(plain, data, jax.devices()[:1]))
    assert _same(again, state), "seed: two runs with the same seed differ; draw from `draws` alone"
    single, _ = _after_two(simulation, length=1)
    assert _same(single, state), (
        "rounds: two rounds in one program are not those of two programs; keep in the state all "
        "that a round leaves for the next"
    )
    other = dataclasses.replace(plain, seed=plain.seed + 1)
    moved, _ = _after_two(Simulation(other, data, jax.devices()[:1]))
    assert config.one_round or not _same(moved, state), "seed: another seed changes nothing"

    divided = Simulation(dataclasses.replace(config, block_size=3, size_classes=2), data)
    np.testing.assert_allclose(
        _scores(divided, _after_two(divided)[0]), scores, rtol=TOLERANCE, atol=TOLERANCE,
        err_msg="division: scores depend on blocks, size classes or devices; use what "
        "`train_clients` gives a client, and sum over clients by what it sends",
    )  # fmt: skip


def made_up() -> Federation:
    """24 clients of 5 to 26 interactions with 80 items, under `leak-free`."""
    rows, _ = synthetic(24, 80, 2, (5, 26), seed=3)
    rules = preset("leak-free", num_candidates=12, min_interactions=3)
    return split(rows, rules, seed=0, name="made-up")


def _check_shapes(simulation: Simulation, start: Any) -> None:
    key, lists, _, hyper = simulation.unchanging

    def one(state: Any) -> Any:
        return simulation.algorithm.round(simulation.draws(key, jnp.int32(0), lists), state, hyper)

    after, _ = jax.eval_shape(one, start)
    before = jax.eval_shape(lambda state: state, start)
    assert jax.tree.structure(after) == jax.tree.structure(before), (
        "state: a round returns a state of another structure"
    )
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        assert (x.shape, x.dtype) == (y.shape, y.dtype), (
            f"state{jax.tree_util.keystr(path)}: a round turns {x.dtype}{list(x.shape)} into "
            f"{y.dtype}{list(y.shape)}"
        )


def _after_two(simulation: Simulation, length: int = 2) -> tuple[Any, np.ndarray]:
    """State and losses after two rounds, in programs of `length` rounds."""
    state, losses = simulation.init(), []
    for number in range(0, 2, length):
        state, info, _ = simulation.segment(state, length)(state, number)
        trained = np.asarray(info.epochs) > 0
        losses.append(np.asarray(info.loss)[trained])
    return state, np.concatenate(losses)


def _scores(simulation: Simulation, state: Any) -> np.ndarray:
    """[C I] logits, in the federation's order."""
    clients = np.arange(simulation.federation.num_clients)
    return Clients(simulation).scores(state, clients)


def _same(one: Any, two: Any) -> bool:
    """Whether two states are equal to the bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)

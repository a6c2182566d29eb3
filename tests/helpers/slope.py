"""Methods that compile at once and whose quality is known beforehand, for sweeps."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from toy import small_federation

from fedem_jax.config.ranges import Positive
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.config.settings import Config
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic, hyper_of


@dataclass(frozen=True)
class Slope(Config):
    """Settings of a method that gets better by `speed` in a round, and explodes above 10."""

    method: str = "slope"
    rounds: int = 8
    top_k: int = 5
    speed: Positive = 1.0


class Hyper(NamedTuple):
    init_scale: Any
    speed: Any


def slope(config, layout) -> Algorithm:
    """Scores are noise, but those of the held-out items rise with the rounds."""
    held, num_items = jnp.asarray(ASKED[layout.client % len(ASKED)]), layout.num_items

    def init(key, hyper) -> State:
        noise = hyper.init_scale * jax.random.normal(key, (layout.padded, num_items))
        return State({"score": noise}, jnp.int32(0))

    def round(draws, state, hyper):
        number = state.server + 1
        lift = jax.nn.one_hot(held, num_items).sum(axis=1) * hyper.speed / config.dim
        score = state.clients["score"] + lift
        exploded = jnp.where((hyper.speed > 10) & (number > 2), jnp.nan, 1.0)
        loss = jnp.full(layout.padded, exploded / number)
        epochs = jnp.ones(layout.padded, jnp.int32)
        return State({"score": score * exploded}, number), Info(loss, epochs)

    def score(state, places, hyper):
        return state.clients["score"][places]

    return Algorithm(
        init, round, score, hyper_of(Hyper, config), Traffic(0, 0),
        scratch=lambda block: {"round": 0},
    )  # fmt: skip


FEDERATION = small_federation()
ASKED = np.stack([FEDERATION.val_item, FEDERATION.test_item], axis=1)


@dataclass(frozen=True)
class Turning(Config):
    """Settings of a method that turns from one kind of model into another after `turn` rounds."""

    method: str = "turning"
    rounds: int = 2
    top_k: int = 5
    turn: Positive = 1.0


def turning(config, layout) -> Algorithm:
    """Up to the turn all clients rank the validation item above its candidates, but below all other
    items; then 4 of 7 rank it first, and 3 last."""
    client, num_items = np.arange(FEDERATION.num_clients), layout.num_items
    before = np.full((len(client), num_items), 2.0)
    np.put_along_axis(before, FEDERATION.val_candidates, 0.0, axis=1)
    before[client, FEDERATION.val_item] = 1.0
    after = np.zeros((len(client), num_items))
    after[client, FEDERATION.val_item] = np.where(client < 4, 1.0, -1.0)
    place = layout.client % len(client)
    kinds = jnp.asarray(np.stack([before[place], after[place]]), jnp.float32)

    class Turn(NamedTuple):
        turn: Any

    def init(key, hyper) -> State:
        return State({"score": kinds[0]}, jnp.int32(0))

    def round(draws, state, hyper):
        number = state.server + 1
        score = jnp.where(number > hyper.turn, kinds[1], kinds[0])
        trained = Info(jnp.ones(layout.padded), jnp.ones(layout.padded, jnp.int32))
        return State({"score": score}, number), trained

    def score(state, places, hyper):
        return state.clients["score"][places]

    return Algorithm(
        init, round, score, hyper_of(Turn, config), Traffic(0, 0),
        scratch=lambda block: {"round": 0},
    )  # fmt: skip


def put_among_methods(monkeypatch):
    """`slope` among the methods, and a small federation for every seed of a sweep."""
    monkeypatch.setitem(METHODS, "slope", Method(Slope, slope))
    monkeypatch.setattr(
        "fedem_jax.sweeps.run.federation_of",
        lambda config: dataclasses.replace(FEDERATION, seed=config.seed),
    )


SELECTED = {
    "val": ({9.0: (1, 0), 0.5: (4 / 7, 4 / 7), 1.5: (1, 0)}, 1, [9.0, 1.5, 0.5]),
    "val_full": ({9.0: (1, 0), 0.5: (4 / 7, 4 / 7), 1.5: (4 / 7, 4 / 7)}, 2, [0.5, 1.5, 9.0]),
}
"""What decides; by `turn` the HR@5 of val and val_full at the round that it chooses; that round
where a setting turns in between; the settings, the best first."""

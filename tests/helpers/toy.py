"""The smallest method: a fixed score for each client and item, and a count of the rounds.

It compiles at once, so that the loop around a method can be tested apart from any method.
"""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from fedem_jax.config.protocol import preset
from fedem_jax.config.settings import AdamClients
from fedem_jax.core.algorithm import Algorithm, Info, State, Traffic
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic


def small_federation(
    protocol="leak-free", clients=7, items=60, seed=3, split_seed=0, **switches
) -> Federation:
    """A federation of a few clients whose sizes vary; two devices divide them unevenly."""
    interactions, _ = synthetic(clients, items, 2, (5, 26), seed=seed)
    switches = {"num_candidates": 6, "min_interactions": 3} | switches
    return split(interactions, preset(protocol, **switches), seed=split_seed, name="small")


def permuted(federation: Federation, order: np.ndarray) -> Federation:
    """The same clients under other numbers."""

    def ragged(offsets, values):
        lists = [values[offsets[u] : offsets[u + 1]] for u in order]
        ends = np.cumsum([0, *map(len, lists)])
        return ends.astype(np.int32), np.concatenate(lists)

    offsets, items = ragged(federation.offsets, federation.items)
    barred_offsets, barred = ragged(federation.barred_offsets, federation.barred)
    held_out = {}
    for part in ("val", "test"):
        ends = getattr(federation, f"{part}_offsets")
        for kind in ("item", "candidates"):
            name = f"{part}_{kind}"
            held_out[f"{part}_offsets"], held_out[name] = ragged(ends, getattr(federation, name))
    return dataclasses.replace(
        federation, offsets=offsets, items=items, barred_offsets=barred_offsets, barred=barred,
        user_ids=federation.user_ids[order], cohort=federation.cohort[order], **held_out,
    )  # fmt: skip


CHANCE = 5 / 21
"""HR@5 of a guess among 20 other items."""


def checkerboard(protocol) -> Federation:
    """Even clients like even items, odd clients odd ones: 18 of 24 each."""
    rng = np.random.default_rng(0)
    items = np.array([2 * rng.permutation(24)[:18] + client % 2 for client in range(60)])
    user, time = np.indices(items.shape)
    rules = preset(protocol, num_candidates=20, candidates="shared")
    interactions = Interactions.of(user.ravel(), items.ravel(), time=time.ravel())
    return split(interactions, rules, seed=0, name="checkerboard")


@dataclass(frozen=True)
class Toy(AdamClients):
    """Settings of the toy."""

    method: str = "toy"


HUGE = 2.0**100
STAND_INS = {np.nan: -HUGE, np.inf: HUGE, -np.inf: -2 * HUGE}
"""For what is not finite, in the parameters of the toy, which always are."""


def toy(scores: np.ndarray):
    """An algorithm that scores with `scores` [R, C, I] in rounds 0 (before the first) to R - 1, and
    with the last of them from then on."""

    def bound(config, layout) -> Algorithm:
        def init(key, hyper) -> State:
            nan, above, below = STAND_INS.values()
            finite = np.nan_to_num(scores, nan=nan, posinf=above, neginf=below)
            each = jnp.asarray(finite, jnp.float32).swapaxes(0, 1)
            nobody = jnp.zeros((layout.padded, *each.shape[1:]))
            return State({"score": nobody.at[layout.place].set(each)}, jnp.int32(0))

        def round(draws, state, hyper):
            number = state.server + 1
            epochs = (
                jnp.zeros(layout.padded, jnp.int32).at[layout.places(draws.participants())].set(2)
            )
            loss = jnp.where(epochs > 0, 1 / number, jnp.nan)
            return State(state.clients, number), Info(loss, epochs)

        def score(state, places, hyper):
            now = state.clients["score"][places, jnp.minimum(state.server, len(scores) - 1)]
            here = [now == jnp.float32(stand_in) for stand_in in STAND_INS.values()]
            return jnp.select(here, [jnp.float32(value) for value in STAND_INS], now)

        return Algorithm(
            init, round, score, hyper=(), traffic=Traffic(up=10, down=20),
            scratch=lambda block: {"round": 0},
        )  # fmt: skip

    return bound

"""Epsilon and delta of normal noise on uploads, over all rounds, by the package `dp-accounting`.

Whatever its data, the upload of a client lies within `clip` of a known table in L2 norm. Each
number gets noise of standard deviation `scale` (`fedem_jax.client.privacy`). So any two data sets
of a client make its upload differ by at most 2 clip, and the noise multiplier is

    z = scale / (2 clip)                 for one upload, which the server sees
    z = sqrt(A) scale / (2 clip)         for the plain mean of A uploads, each with such noise

The unit that is protected is a client: all of its data, with all of its uploads.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from fedem_jax.config.base import Config
from fedem_jax.config.shared import LocalPrivacy
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Privacy


def gaussian_epsilon(clip: float, scale: float, delta: float, uploads: int = 1) -> float:
    """Epsilon of all uploads of a client, against a server that sees each of them.

    The uploads are Gaussian mechanisms in a row. Together they are one mechanism with noise
    multiplier z / sqrt(uploads). Its epsilon is exact (Balle, Wang 2018). The server knows who
    uploads, so drawing the clients of a round amplifies nothing.

    Args:
        clip: bound of the L2 norm, `ldp_clip`; 0: none, and epsilon is infinite.
        scale: standard deviation of the noise, `ldp_scale`; 0: none, and epsilon is infinite.
        delta: chance that epsilon may not hold, above 0.
        uploads: of the client; at most the rounds of the run.

    Raises:
        UserError: the package `dp-accounting` is missing.
    """
    if clip == 0 or scale == 0:
        return math.inf
    multiplier = scale / (2 * clip) / math.sqrt(uploads)
    return float(_package().get_epsilon_gaussian(multiplier, delta))


def mean_epsilon(
    clip: float, scale: float, delta: float, rounds: int, uploads: int, clients: int
) -> float:
    """Epsilon against somebody who sees the plain mean of each round, and not who is in it.

    In each round `uploads` of the clients are drawn without replacement. The data of one client are
    replaced by any others. Two bounds hold, and the smaller one is returned. The first uses the
    draws: Renyi divergences of Wang, Balle, Kasiviswanathan 2019, added up over the rounds. The
    second does not: the client is as if drawn in every round. It is smaller if most are drawn.

    Args:
        clip, scale, delta: as for `gaussian_epsilon`.
        rounds: of the run.
        uploads: A, in the mean of a round.
        clients: all there are.

    Raises:
        UserError: the package `dp-accounting` is missing.
    """
    if clip == 0 or scale == 0:
        return math.inf
    dp, of_all = _package(), math.sqrt(uploads) * scale
    always_drawn = gaussian_epsilon(clip, of_all, delta, rounds)
    noise = dp.GaussianDpEvent(of_all / (2 * clip))
    drawn = dp.SampledWithoutReplacementDpEvent(clients, uploads, noise)
    accountant = dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp.SelfComposedDpEvent(drawn, rounds))
    return min(float(accountant.get_epsilon(delta)), always_drawn)


def guarantee(config: Config, rounds: int, clients: int) -> Privacy | None:
    """What the summary of a run says of its normal noise; None: there is no noise, or no bound.

    Without the package it has delta and no epsilon.

    Args:
        config: settings of the run.
        rounds: that it ran.
        clients: of the federation.
    """
    if not (isinstance(config, LocalPrivacy) and config.ldp_noise == "gaussian"):
        return None
    numbers = config.ldp_clip, config.ldp_scale, config.ldp_delta
    if not (config.ldp_clip and config.ldp_scale):
        return None
    found: Privacy = {"unit": "client", "delta": config.ldp_delta}
    try:
        found["epsilon"] = gaussian_epsilon(*numbers, uploads=rounds)
    except UserError:
        return found
    if config.averages_evenly:
        _, uploads = config.round_sizes(clients)
        found["epsilon_of_means"] = mean_epsilon(*numbers, rounds, uploads, clients)
    return found


def _package() -> Any:
    """`dp_accounting`.

    Raises:
        UserError: it is missing.
    """
    try:
        return importlib.import_module("dp_accounting")
    except ImportError:
        raise UserError(
            "epsilon: normal noise needs a package that is missing; `pip install "
            "'fedem_jax[privacy]'`."
        ) from None

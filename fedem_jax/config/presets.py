"""Named settings: those of the released programs, and those found on validation (`tuned.toml`)."""

from __future__ import annotations

from typing import Any

from fedem_jax.config.base import Config
from fedem_jax.config.registry import settings_of
from fedem_jax.config.tuned import tuned
from fedem_jax.errors import UserError, nearest

RELEASED: dict[tuple[str, str], dict[str, Any]] = {
    # log posted by the authors; theirs of ml-100k is of the defaults. The command in the README of
    # the program, for ml-100k, diverges here: a step of 1000 against a weight decay of 1e-6, while
    # independence is a reward without bound
    ("fedrap", "ml-1m"): {"lr_embedding": 1000.0, "independence": 0.01, "sparsity": 0.01},
    # script of the program of FedEM
    ("fedmf", "lastfm-2k"): {"lr_embedding": 0.1},
    # the paper, by a second hand
    ("cofedrec", "ml-1m"): {"num_clusters": 45, "temperature": 0.5},
    ("cofedrec", "lastfm-2k"): {"num_clusters": 500},
}
"""Where a released program does not run with its defaults, by method and data set."""

PRESETS = ("auto", "released", "tuned")


def preset(
    name: str = "auto", *, dataset: str = "synthetic", method: str = "fedem", **settings: Any
) -> Config:
    """A configuration that starts from a preset; `settings` replace single values.

    Args:
        name: `released` = defaults of the authors' program; `tuned` = chosen on validation under
            the leak-free protocol; `auto` = tuned on the synthetic federation, for which nothing
            was released, where such settings exist, and released otherwise.

    Raises:
        UserError: there is no such preset or method.
    """
    if name not in PRESETS:
        raise UserError(f"preset: '{name}' is unknown; {nearest(name, list(PRESETS))}.")
    if name == "auto":
        embedded = dataset == "synthetic" and (method, dataset) in tuned()
        name = "tuned" if embedded else "released"
    values = RELEASED.get((method, dataset), {})
    if name == "tuned":
        if (method, dataset) not in tuned():
            known = ", ".join(searched for name, searched in tuned() if name == method)
            raise UserError(
                f"preset: {method} on {dataset} has no tuned settings; it has some for "
                f"{known or 'no data set'}."
            )
        values = tuned()[method, dataset].settings
    chosen: dict[str, Any] = {"dataset": dataset, "method": method} | values | settings
    return settings_of(method)(**chosen)

"""Named settings: those of the released programs, and those tuned on validation (`tuned.toml`)."""

from __future__ import annotations

import os
from typing import Any

from fedem_jax.config.base import Config
from fedem_jax.config.registry import settings_of
from fedem_jax.config.tuned import tuned
from fedem_jax.config.values import from_data, refuse_unknown
from fedem_jax.errors import UserError, nearest

RELEASED: dict[tuple[str, str], dict[str, Any]] = {
    # A log that the authors posted; their log for ml-100k uses the defaults. The command in their
    # README, for ml-100k, diverges here: its step size is 1000 and its weight decay 1e-6, and the
    # reward for independence has no bound.
    ("fedrap", "ml-1m"): {"lr_embedding": 1000.0, "independence": 0.01, "sparsity": 0.01},
    # a script in the released program of FedEM
    ("fedmf", "lastfm-2k"): {"lr_embedding": 0.1},
    # the paper, as cited elsewhere
    ("cofedrec", "ml-1m"): {"num_clusters": 45, "temperature": 0.5},
    ("cofedrec", "lastfm-2k"): {"num_clusters": 500},
}
"""Settings of the authors that differ from the defaults of their program, by method and data."""

UNKNOWN: dict[str, dict[str, Any]] = {
    "fedem": {
        "local_optimiser": "closed-form", "lr_embedding": 30.0, "confidence": 8.0,
        "regularization": 10.0, "local_epochs": 1, "init_scale": 0.1, "weighting": "uniform",
        "aggregation": "avg", "aggregation_fraction": 1.0, "merging": "replace",
        "server_optimiser": "adam", "lr_server": 0.2,
    },
    "fedmf": {
        "local_optimiser": "sgd", "lr_embedding": 0.1, "lr_item_factor": 80.0, "local_epochs": 2,
        "init_scale": 0.1,
    },
}  # fmt: skip
"""Settings under `leak-free` of data without tuned ones, by method (experiments/README.md).

FedEM: of 72 settings, those whose largest shortfall over six data sets is smallest. FedMF has no
closed form. Its step of an item row grows with the number of items: this factor learned on all data
that it was tried on. A larger one, best on ML-100K, diverges on ML-1M.
"""

PRESETS = ("auto", "released", "tuned")


def preset(
    name: str = "auto",
    *,
    dataset: str | os.PathLike[str] = "synthetic",
    method: str = "fedem",
    **settings: Any,
) -> Config:
    """A configuration that starts from a preset.

    Args:
        name: `released` = settings of the authors' program; `tuned` = settings chosen on validation
            under the leak-free protocol; `auto` = under that protocol `tuned` where such settings
            exist, on other data those of `UNKNOWN`; `released` under all other protocols, and for a
            backbone other than MF.
        dataset: name of a known data set, or path of a file.
        method: name of the method.
        settings: values that replace those of the preset.

    Raises:
        UserError: the preset, the method or a setting is unknown, a setting does not accept its
            value, or no tuned settings exist.

    Examples:
        >>> config = fj.preset("released", method="fedmf", rounds=20, dim=8)
        >>> config.method, config.rounds, config.dim
        ('fedmf', 20, 8)
    """
    if name not in PRESETS:
        raise UserError(f"preset: '{name}' is unknown; {nearest(str(name), list(PRESETS))}.")
    kind = settings_of(method)
    data: str = from_data(kind, "dataset", dataset)
    refuse_unknown(kind, settings)
    values = RELEASED.get((method, data), {})
    if name == "auto":
        learns = settings.get("protocol", Config.protocol) == Config.protocol
        learns = learns and settings.get("backbone", "mf") == "mf"  # no other has been tuned
        name = "tuned" if learns and (method, data) in tuned() else "released"
        if learns and name == "released":
            values = UNKNOWN.get(method, values)
    if name == "tuned":
        if (method, data) not in tuned():
            known = ", ".join(searched for name, searched in tuned() if name == method)
            raise UserError(
                f"preset: {method} on {data} has no tuned settings; it has some for "
                f"{known or 'no data set'}."
            )
        values = tuned()[method, data].settings
    chosen: dict[str, Any] = {"dataset": data, "method": method} | values | settings
    return kind(**chosen)

"""What the trackers are told of a run: settings, numbers of a round, numbers of the result."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.storage.files import plain

TOTALS = ("rounds", "bytes_up", "bytes_down", "seconds_per_round", "compile_seconds")
"""Fields of a summary on the whole run."""


def package(name: str, extra: str) -> Any:
    """The package of a tracker.

    Args:
        name: of the package.
        extra: of fedem_jax, which installs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{name} is not installed; pip install 'fedem_jax[{extra}]' installs it."
        ) from None


def name_of(setting: Setting) -> str:
    """Name of a run: its data, method, protocol and seed."""
    config, federation = setting["config"], setting["federation"]
    return f"{federation.name}-{config.method}-{federation.protocol.name}-seed{config.seed}"


def hyper_parameters(setting: Setting) -> dict[str, Any]:
    """All settings of a run, with every switch of its protocol, and what its data are."""
    config, federation = setting["config"], setting["federation"]
    switches = dataclasses.asdict(federation.protocol)
    protocol = switches.pop("name")
    return {
        **dataclasses.asdict(config),
        **switches,
        "protocol": protocol,
        "data": federation.name,
        "fingerprint": federation.fingerprint,
        "clients": federation.num_clients,
        "items": federation.num_items,
        "device": setting["device"],
    }


def as_text(value: Any) -> str:
    """A setting as text: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=plain)


def of_round(record: Record) -> dict[str, float]:
    """The numbers of a record by name, such as `loss` and `val/hr_at_10`; the round is left out."""
    return scalars({name: value for name, value in record.items() if name != "round"})


def of_run(summary: Summary) -> dict[str, float]:
    """The numbers of a summary by name: `best/...`, the best validation round, and `run/...`."""
    totals = {name: summary[name] for name in TOTALS}
    return scalars({"best": summary["headline"], "run": totals})


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings by their path, `a/b`. All else is left out."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = prefix + allowed(key)
        if isinstance(value, Mapping):
            found |= scalars(value, f"{name}/")
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def allowed(name: str) -> str:
    """A name that every tracker takes, `hr_at_10` for `hr@10`."""
    return name.replace("@", "_at_")

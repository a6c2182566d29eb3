"""The plan of a sweep in its folder, `sweep.json`: all that its trials depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedem_jax.config.registry import settings_of
from fedem_jax.errors import UserError
from fedem_jax.sweeps.description import data_name

PLAN, ABOUT = "sweep.json", "about.json"


def fingerprint(plan: dict[str, Any]) -> str:
    """A short name of a plan; equal plans have the same."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def check_same(directory: Path, plan: dict[str, Any], may_grow: Sequence[str]) -> None:
    """Refuse a folder whose plan differs in more than what may grow.

    A setting that an earlier version lacked had its default.

    Raises:
        UserError: its plan differs or cannot be read. The sentence names the differences.
    """
    saved = plan_in(directory).get("plan", {})
    defaults = dataclasses.asdict(settings_of(plan["config"]["method"])())
    known = {name: defaults[name] for name in plan["config"]}
    saved = saved | {"config": json.loads(json.dumps(known)) | saved.get("config", {})}
    old, new = flat(saved), flat(json.loads(json.dumps(plan)))
    if isinstance(old.get("config dataset"), str):  # earlier versions kept the whole path
        old["config dataset"] = data_name(old["config dataset"])
    changed = [
        f"{name} {old.get(name)!r}, now {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name) and name not in may_grow
        # `seeds` already names an added or a dropped seed
        if not (name.startswith("splits ") and (name not in old or name not in new))
    ]
    if changed:
        raise UserError(
            f"{directory}: holds another sweep ({'; '.join(changed)}); give another --out or "
            "remove that folder."
        )


def flat(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan without nested dictionaries; their entries are named `outer inner`."""
    return {
        f"{name} {key}".rstrip(): entry
        for name, value in plan.items()
        for key, entry in (value if isinstance(value, dict) else {"": value}).items()
    }


def plan_in(directory: Path) -> dict[str, Any]:
    """What `sweep.json` of a folder holds: the `plan` of the sweep, and its `settings`.

    Raises:
        UserError: the file cannot be read.
    """
    return _json(directory / PLAN)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: describes no sweep; remove the folder.")
    return content

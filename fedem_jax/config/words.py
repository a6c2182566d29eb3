"""Settings in sentences: in which two runs differ, and which change nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fedem_jax.config.base import FILES, INERT


def without_effect(names: Sequence[str], method: str) -> str:
    """The beginning of a sentence: these settings change nothing."""
    return f"{', '.join(names)}: without effect on {method} with these settings"


def differences(
    found: dict[str, Any], wanted: dict[str, Any], but: Collection[str] = INERT
) -> list[str]:
    """The settings in which two runs of a method differ, in words.

    Args:
        found: settings on disk, by name.
        wanted: settings now, by name.
        but: settings that may differ.
    """
    return [
        f"{name} {found.get(name)!r}, now {value!r}"
        for name, value in wanted.items()
        if name not in but
        and found.get(name) != value
        and not (name in ("dataset", *FILES) and same_file(found.get(name), value))
    ]


def same_file(one: Any, other: Any) -> bool:
    """Whether two settings `dataset` are paths of one file, however they are spelled."""
    paths = [Path(each) for each in (one, other) if isinstance(each, str)]
    named = [path for path in paths if not (path.suffix or len(path.parts) > 1 or path.is_file())]
    return len(paths) == 2 and not named and paths[0].resolve() == paths[1].resolve()

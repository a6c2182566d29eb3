"""Run directories, read back with clear errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_type_hints, is_typeddict

from fedem_jax.config.base import Config
from fedem_jax.config.file import load_settings
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.evaluation.records import Alternative, Record, Summary
from fedem_jax.runs.names import ALTERNATIVES, CONFIG, METRICS, PER_CLIENT, SUMMARY
from fedem_jax.storage.files import parse, read

if TYPE_CHECKING:
    import pandas as pd


class Run(NamedTuple):
    """A finished run, read back from its directory."""

    config: Config
    records: list[Record]
    """One per evaluated round, in order."""
    summary: Summary


def read_run(path: str | Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: a file is missing, broken or of an earlier version. The message names the file,
            and the line if it has lines.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such run directory.")
    config = load_settings(path / CONFIG)
    records = parse_lines(path / METRICS, read(path / METRICS).splitlines())
    if not records:
        raise UserError(f"{path / METRICS}: holds no record; the run ended before its first round.")
    for number, record in enumerate(records, start=1):
        _check_fields(f"{path / METRICS}, line {number}", record, Record)
    summary = parse(path / SUMMARY, read(path / SUMMARY))
    _check_fields(f"{path / SUMMARY}", summary, Summary)
    return Run(config, cast(list[Record], records), cast(Summary, summary))


def read_per_client(path: Path) -> pd.DataFrame:
    """Ranks and metrics of every client at the best validation round.

    Args:
        path: the run directory.

    Raises:
        UserError: the file is missing or broken; the message names it.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path / PER_CLIENT)
    except (OSError, ValueError) as error:
        raise UserError(f"{path / PER_CLIENT}: cannot be read ({error}).") from None


def read_alternatives(path: Path) -> list[Alternative]:
    """The alternatives of a run, from its directory; none if it has none.

    Raises:
        UserError: the file is broken; the message names it.
    """
    file = path / ALTERNATIVES
    if not file.exists():
        return []
    found = parse(file, read(file)).get("alternatives")
    if not isinstance(found, list) or not found:
        raise UserError(f"{file}: lists no alternatives; remove it, and run again.")
    for number, each in enumerate(found, start=1):
        _check_fields(f"{file}, alternative {number}", each, Alternative)
    return found


def parse_lines(path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects in the first lines of a file.

    Raises:
        UserError: a line is broken; the message names file and line.
    """
    return [parse(path, line, number) for number, line in enumerate(lines, start=1)]


def read_lines(path: Path, rounds: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of a file that belong to these rounds. Later lines may be incomplete.

    Raises:
        CannotResume: a line is missing or broken; the message names file and line.
    """
    lines = read(path).splitlines()[: len(rounds)] if rounds else []
    try:
        records = parse_lines(path, lines)
    except UserError as error:
        raise CannotResume(f"{error}") from None
    present = [record.get("round") for record in records]
    if present != list(rounds):
        lost = next(number for number in rounds if number not in present)
        raise CannotResume(
            f"{path}: lacks round {lost}, which lies before the last checkpoint; mend it, or run "
            "again with another --out."
        )
    return records


def _check_fields(where: str, value: Any, kind: Any) -> None:
    """Refuse an object that lacks a required field.

    Raises:
        UserError: it lacks one; the message names the first.
    """
    if missing := next(_missing(value, kind), ""):
        raise UserError(
            f"{where}: lacks '{missing}'; runs of earlier versions cannot be read, so run again."
        )


def _missing(value: Any, kind: Any, prefix: str = "") -> Iterator[str]:
    """Names of the required fields that an object lacks, in order, such as `headline.interval`."""
    for name, hint in get_type_hints(kind).items():
        if not isinstance(value, dict) or name not in value:
            if name in kind.__required_keys__:
                yield prefix + name
        elif is_typeddict(hint):
            yield from _missing(value[name], hint, f"{prefix}{name}.")

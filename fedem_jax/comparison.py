"""Methods side by side: each with the same seeds on the same splits, one run after the other.

Every run has a run directory of its own, so that a comparison that was cut off goes on where it
stopped. JAX is imported only once something has to be trained.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args, get_type_hints

from fedem_jax.checkpoint import FOLDER as CHECKPOINTS
from fedem_jax.config import Config, differences
from fedem_jax.errors import CannotResume, Stopped, UserError
from fedem_jax.lock import alone_in
from fedem_jax.presets import PRESETS, preset
from fedem_jax.protocol import SWITCHES, nearest
from fedem_jax.record import (
    CANDIDATES,
    CONFIG,
    CURVES,
    METRICS,
    PER_CLIENT,
    RHO,
    RHO_PICTURE,
    SUMMARY,
    RunDirectory,
    check_free,
    read_run,
)
from fedem_jax.settings import SETTINGS, settings_of
from fedem_jax.settings_file import load_settings

if TYPE_CHECKING:
    import pandas as pd

    from fedem_jax.data.federation import Federation

VARIANTS = {"pfedrec": ("pfedrec:evaluated=global",)}
"""What is compared beside each method unless methods are named: PFedRec with the table that its
clients download, since the one that it was published with profits from a leak."""

FLAGS = ("dataset", "method", "protocol", "rounds", "seed", "out", "data_dir", "per_client")
"""Settings that `plan_comparison` has arguments for, or that it sets itself."""
ALIKE = ("eval_every", "top_k", "columns", "separator", "header", *SWITCHES)
"""Further settings that must be the same for all, or figures would not mean the same."""


class Contender(NamedTuple):
    """A method with its settings."""

    name: str
    """As asked for: `fedem`, `fedem:merging=once:dim=32`."""
    config: Config | None
    """Its settings with the first seed; None: it cannot run."""
    refused: str = ""
    """Why it cannot run."""


class PlannedRun(NamedTuple):
    """A contender with one seed."""

    name: str
    """Of the contender."""
    config: Config
    path: Path
    """Run directory."""

    def __str__(self) -> str:
        return f"{self.name} seed {self.config.seed}"


@dataclass(frozen=True)
class Comparison:
    """What is to be run, and where it is kept."""

    directory: Path
    contenders: tuple[Contender, ...]
    seeds: int
    """Seeds of each: 0 to seeds - 1."""

    def runs(self) -> list[PlannedRun]:
        """All runs, in order: first all contenders with seed 0, so that every one is seen early."""
        return [
            self.run(contender.name, contender.config, seed)
            for seed in range(self.seeds)
            for contender in self.contenders
            if contender.config is not None
        ]

    def run(self, name: str, config: Config, seed: int) -> PlannedRun:
        """One run of a contender."""
        path = self.directory / f"{_slug(name)}-seed{seed}"
        return PlannedRun(name, dataclasses.replace(config, seed=seed, out=str(path)), path)


class Entry(NamedTuple):
    """What came of a contender."""

    name: str
    config: Config | None
    failed: str
    """Why it has no result; empty: it has."""
    summaries: Sequence[dict[str, Any]] = ()
    """One for each seed."""
    clients: Sequence[pd.DataFrame] = ()
    """Metrics of every client at the best validation round, one table for each seed."""
    records: Sequence[list[dict[str, Any]]] = ()
    """All evaluated rounds, one list for each seed."""


class Watcher(Protocol):
    """Whoever watches a comparison; also an observer of its runs (`fedem_jax.train.Observer`)."""

    def say(self, sentence: str) -> None:
        """Something deserves notice."""

    def begin(self, run: PlannedRun) -> None:
        """A run is about to start."""

    def fail(self, run: PlannedRun, reason: str) -> None:
        """It could not be finished; the other seeds of its contender are left out."""

    def start(self, setting: dict[str, Any]) -> None: ...

    def record(self, record: dict[str, Any]) -> None: ...

    def finish(self, summary: dict[str, Any], per_client: pd.DataFrame) -> None: ...


def plan_comparison(
    methods: Sequence[str] = (),
    *,
    dataset: str = "synthetic",
    protocol: str = "leak-free",
    seeds: int = 5,
    rounds: int = 0,
    start: str = "auto",
    settings: Sequence[str] = (),
    out: str = "",
    data_dir: str = "",
) -> Comparison:
    """What a comparison consists of.

    Args:
        methods: names, each with switches of its own if need be, `NAME:FIELD=VALUE:...`; none: all
            methods and `VARIANTS`.
        rounds: of all methods; 0: those of their presets. A switch `rounds` of a method goes first.
        start: preset of all methods. One that lacks it is refused by itself.
        settings: `FIELD=VALUE`, for all methods alike.

    Raises:
        UserError: an unknown method or setting, a value out of range, settings that would make two
            methods incomparable, or no method that can run.
    """
    if seeds < 1:
        raise UserError(f"seeds: {seeds} is out of range; give a number of at least 1.")
    if rounds < 0:
        raise UserError(f"rounds: {rounds} is out of range; give a number of at least 1.")
    if start not in PRESETS:
        raise UserError(f"preset: '{start}' is unknown; {nearest(start, list(PRESETS))}.")
    shared = _values(Config, settings, FLAGS)
    shared |= {"protocol": protocol, "data_dir": data_dir, "per_client": True}
    if rounds:
        shared["rounds"] = rounds
    preset("released", dataset=dataset, **shared)  # their mistakes are those of no method

    names = methods or [each for name in SETTINGS for each in (name, *VARIANTS.get(name, ()))]
    contenders = tuple(_contender(name, dataset, start, shared) for name in dict.fromkeys(names))
    if all(contender.config is None for contender in contenders):
        raise UserError(contenders[0].refused)
    stem = Path(dataset).stem or "data"
    directory = Path(out or Path("results") / f"compare-{stem}-{protocol}")
    return Comparison(directory, contenders, seeds)


def missing(comparison: Comparison) -> list[PlannedRun]:
    """The runs that are not finished yet.

    Raises:
        UserError: a folder holds a run with other settings, or nothing can be written.
    """
    check_free(comparison.directory)
    return [run for run in comparison.runs() if not finished(run)]


def finished(run: PlannedRun) -> bool:
    """Whether a run stands complete in its folder.

    Raises:
        UserError: the folder holds a run with other settings; says which.
    """
    if not (run.path / CONFIG).exists():
        return False
    ended = (run.path / SUMMARY).exists()
    try:
        found = load_settings(run.path / CONFIG)
    except UserError:
        if ended:
            raise
        return False  # cut off while it was written
    if changed := differences(dataclasses.asdict(found), dataclasses.asdict(run.config)):
        raise UserError(
            f"{run.path}: holds a run with other settings ({'; '.join(changed)}); "
            "give another --out or remove that folder."
        )
    return ended


def run_all(
    directory: Path,
    todo: Sequence[PlannedRun],
    watch: Watcher,
    stop: Callable[[], int] = lambda: 0,
) -> dict[str, str]:
    """Run one after the other. A contender that fails does not stop the others.

    Args:
        directory: of the comparison; made if need be.
        stop: as in `fedem_jax.train.run`.

    Returns:
        Why contenders failed, by name.

    Raises:
        UserError: the data cannot be read, the folder cannot be made, or another process is at work
            there.
        Stopped: `stop` asked for it.
    """
    with alone_in(directory):
        return _run_all(todo, watch, stop)


def _run_all(todo: Sequence[PlannedRun], watch: Watcher, stop: Callable[[], int]) -> dict[str, str]:
    from fedem_jax.data.sources import federation_of, load
    from fedem_jax.methods import METHODS

    once = functools.lru_cache(maxsize=1)(load)  # all methods with a seed have the same data
    failed: dict[str, str] = {}
    for each in todo:
        if each.name in failed:
            continue
        if number := stop():
            raise Stopped(number)
        federation = federation_of(each.config, once)
        watch.begin(each)
        try:
            if each.config.method not in METHODS:
                raise UserError(f"method: {each.config.method} has settings, but no program.")
            _run(each, federation, watch, stop)
        except UserError as error:
            failed[each.name] = f"{str(error).rstrip('.')} (seed {each.config.seed})."
            watch.fail(each, str(error))
    return failed


def _run(each: PlannedRun, federation: Federation, watch: Watcher, stop: Callable[[], int]) -> None:
    """Go on with a run if it was cut off and can be gone on with, else begin it."""
    from fedem_jax.train import run

    done = False
    if (each.path / CONFIG).exists() and (each.path / CHECKPOINTS).is_dir():
        try:
            classes = load_settings(each.path / CONFIG).size_classes
            config = dataclasses.replace(each.config, size_classes=classes)
            run(config, federation, [watch], RunDirectory(each.path, True, watch.say), stop)
            done = True
        except CannotResume as error:
            watch.say(str(error))
    if not done:
        if _remove_remains(each.path):
            watch.say(f"{each.path}: was cut off, starts anew")
        run(each.config, federation, [watch], RunDirectory(each.path, say=watch.say), stop)
    # many runs, each as large as its parameters: only what the tables need stays
    shutil.rmtree(each.path / CHECKPOINTS, ignore_errors=True)


def gather(comparison: Comparison, failed: dict[str, str]) -> list[Entry]:
    """Read all finished runs back.

    Raises:
        UserError: a file is missing or broken, or the runs rest on different data.
    """
    entries: list[Entry] = []
    splits: dict[int, str] = {}  # fingerprints by seed
    users: list[str] = []
    for name, config, refused in comparison.contenders:
        if config is None or name in failed:
            entries.append(Entry(name, config, refused or failed[name]))
            continue
        summaries, tables, records = [], [], []
        for seed in range(comparison.seeds):
            path = comparison.run(name, config, seed).path
            (_, rounds, summary), clients = read_run(path), _per_client(path)
            known = splits.setdefault(seed, summary["fingerprint"])
            users = users or clients["user"].tolist()
            if summary["fingerprint"] != known or clients["user"].tolist() != users:
                raise UserError(
                    f"{path}: rests on other data than the runs before it, so the data have "
                    "changed in between; remove the older runs."
                )
            summaries.append(summary)
            tables.append(clients)
            records.append(rounds)
        entries.append(Entry(name, config, "", summaries, tables, records))
    return entries


def _per_client(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path / PER_CLIENT)
    except (OSError, ValueError) as error:
        raise UserError(f"{path / PER_CLIENT}: cannot be read ({error}).") from None


def _contender(name: str, dataset: str, start: str, shared: dict[str, Any]) -> Contender:
    method, *switches = name.split(":")
    kind = settings_of(method)
    try:
        preset(start, dataset=dataset, method=method)
    except UserError as error:
        return Contender(name, None, str(error))
    try:
        own = _values(kind, switches, {*FLAGS, *ALIKE} - {"rounds"})
        config = preset(start, dataset=dataset, method=method, **(shared | own))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Contender(name, config)


def _values(kind: type[Config], pairs: Sequence[str], barred: Collection[str]) -> dict[str, Any]:
    """`FIELD=VALUE` in the types of the fields; a tuple's entries stand between commas."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in barred}
    hints, values = get_type_hints(kind), {}
    for pair in pairs:
        given, equals, text = pair.partition("=")
        name = given.replace("-", "_")
        if not equals:
            raise UserError(f"'{pair}' sets nothing; write FIELD=VALUE.")
        if name in barred:
            raise UserError(f"'{name}' is chosen for all methods; see `fedem compare --help`.")
        if name not in fields:
            raise UserError(f"setting '{name}' is unknown; {nearest(name, list(fields))}.")
        default = fields[name].default
        entry = get_args(hints[name])[0] if isinstance(default, tuple) else type(default)
        parts = text.split(",") if isinstance(default, tuple) else [text]
        try:
            read = tuple(entry(part) for part in parts)
        except ValueError:
            words = {int: "integer", float: "number"}
            raise UserError(f"{name}: '{text}' is no {words[entry]}.") from None
        values[name] = read if isinstance(default, tuple) else read[0]
    return values


def _slug(name: str) -> str:
    """A contender's name as part of a folder's."""
    return re.sub(r"[^\w.=+-]+", "-", name)


def _remove_remains(path: Path) -> bool:
    """Remove what a run left that was cut off, and nothing else; whether there was anything."""
    names = (CONFIG, METRICS, SUMMARY, CURVES, CANDIDATES, PER_CLIENT, RHO, RHO_PICTURE)
    files = [path / name for name in names]
    files += [path / f"{name}.partial" for name in names]
    found = [file for file in files if file.exists()]
    for file in found:
        file.unlink()
    checkpoints = path / CHECKPOINTS
    if checkpoints.is_dir():
        shutil.rmtree(checkpoints)
        found.append(checkpoints)
    return bool(found)

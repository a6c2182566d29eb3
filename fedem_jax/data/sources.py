"""`load`: name of a known data set, or path of a file -> `Federation`. Downloads what is absent."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fedem_jax.config.base import FILES, Config
from fedem_jax.config.protocol import Protocol, rules_of
from fedem_jax.data import readers
from fedem_jax.data.catalog import SOURCES, Source
from fedem_jax.data.download import download
from fedem_jax.data.federation import Federation
from fedem_jax.data.fileformat import FileFormat
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.prepared import SUFFIX, read_federation
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import embedded
from fedem_jax.errors import UserError, nearest


class Listing(NamedTuple):
    """A line in the list of data sets; its fields are those of `Source`."""

    name: str
    users: int
    items: int
    rows: int
    origin: str
    """Web page, or how it was made."""
    source: Source | None
    """None: embedded."""


def known_datasets() -> list[Listing]:
    """Every name that `load` knows, with users, items and rows of its file; 0 if not known."""
    rows, truth = embedded()
    sizes = len(truth.group), len(truth.popularity), len(rows)
    return [Listing("synthetic", *sizes, "embedded, planted", None)] + [
        Listing(name, source.users, source.items, source.rows, source.homepage, source)
        for name, source in SOURCES.items()
    ]


def load(
    dataset: str | Path,
    protocol: str | Protocol = "leak-free",
    seed: int = 0,
    *,
    val_file: str | Path = "",
    test_file: str | Path = "",
    data_dir: str | Path = "",
    **form: Any,
) -> Federation:
    """Read a data set and split it into one client per user.

    Args:
        dataset: a known name (`known_datasets`), or the path of a file of your own. A path that
            ends in `.npz` is that of a federation prepared by `fedem data NAME --out`.
        protocol: rules of the split, by name or made by `fedem_jax.config.protocol.preset`.
        seed: seed of the sampled candidates that held-out items are ranked against.
        val_file, test_file: files of the held-out rows, if the split is given; `dataset` then holds
            the training rows. Such files need no times.
        data_dir, form: as in `read`.

    Raises:
        UserError: as in `read`, `fedem_jax.data.split.split` and
            `fedem_jax.data.prepared.read_federation`; or one of the two files is missing.

    Examples:
        >>> shop = fj.load("synthetic")
        >>> shop.num_clients, shop.num_items
        (600, 593)
    """
    given, name = bool(val_file or test_file), name_of(str(dataset))
    rules = rules_of(protocol, given)
    if bool(val_file) != bool(test_file) or given != (rules.split == "given"):
        raise UserError(
            f"{name}: split=given takes val_file and test_file, and no other split does; cut "
            "validation rows from your training file, never from the test file."
        )
    if Path(dataset).suffix == SUFFIX and not given:
        if FileFormat(**form) != FileFormat():
            raise UserError(
                f"{name}: a prepared federation has no columns and no order; leave out the "
                "settings of a ratings file."
            )
        return read_federation(dataset, rules, seed)
    if given and not form.get("order") and not names_time(form):
        form["order"] = "file"
    files = [dataset, *([val_file, test_file] if given else [])]
    train, *held_out = (read(file, data_dir=data_dir, seed=seed, **form) for file in files)
    return split(train, rules, seed, name, (held_out[0], held_out[1]) if given else None)


def names_time(form: dict[str, Any]) -> bool:
    """Whether the settings of a file name its column of times."""
    columns = form.get("columns") or ()
    return len(columns) > 3 and bool(columns[3])


def name_of(dataset: str) -> str:
    """The name of a federation: that of the known data set, or of the file with its suffix.

    So a file of one's own never has the name of a known data set.
    """
    if is_known(dataset):
        return dataset
    name = Path(dataset).name
    return str(Path(dataset).absolute()) if is_known(name) else name


def is_known(name: str) -> bool:
    """Whether a name is that of a known data set."""
    return name == "synthetic" or name in SOURCES


def federation_of(config: Config, load: Callable[..., Federation] = load) -> Federation:
    """The federation of a configuration: its data set, split by its protocol and seed."""
    form = {name: getattr(config, name) for name in FileFormat._fields}
    form |= {name: getattr(config, name) for name in FILES if getattr(config, name)}
    return load(config.dataset, config.rules(), config.seed, data_dir=config.data_dir, **form)


def read(
    dataset: str | Path, *, data_dir: str | Path = "", seed: int = 0, **form: Any
) -> Interactions:
    """The interactions of a known data set, or of a file of your own.

    A known data set that is absent is downloaded, and verified against its checksum before use. A
    file that is already there is used as it is. The synthetic data are always the same.

    Args:
        dataset: a known name (`known_datasets`), or the path of a file of your own.
        data_dir: folder of the known data sets; empty = `$FEDEM_DATA`, else `data/`.
        seed: seed of the order `random`.
        form: the fields of `fedem_jax.data.fileformat.FileFormat`. They describe a file of your
            own; of a known data set only `ties_latest` counts.

    Raises:
        UserError: the name is unknown, the file cannot be read, or the data set can be neither
            found nor downloaded. The sentence then says which file to put where.
    """
    dataset = str(dataset)
    settings = FileFormat(**form)
    settings.check()
    if dataset == "synthetic":
        return dataclasses.replace(embedded()[0], ties_latest=settings.ties_latest)
    if dataset in SOURCES:
        source = SOURCES[dataset]
        found = source.read(_locate(dataset, source, data_dir))
        by_definition = found.columns_read and found.columns_read._replace(by="definition")
        return dataclasses.replace(
            found, columns_read=by_definition, ties_latest=settings.ties_latest
        )
    path = Path(dataset)
    if path.suffix or len(path.parts) > 1 or os.path.exists(path):
        return readers.read(path, seed=seed, **form)
    known = ["synthetic", *SOURCES]
    raise UserError(
        f"unknown data set '{dataset}': {nearest(dataset, known)}, or the path of a file."
    )


def _locate(name: str, source: Source, data_dir: str | Path) -> Path:
    folder = Path(data_dir or os.environ.get("FEDEM_DATA") or "data")
    present = (folder / file for file in source.files if os.path.isfile(folder / file))
    path = next(present, None)
    if path is None:
        path = folder / source.files[0]
        download(name, source, path)
    return path

"""`load`: name of a known data set, or path of a file -> `Federation`. Downloads what is absent."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fedem_jax.config.base import Config
from fedem_jax.config.protocol import Protocol, preset
from fedem_jax.data import readers
from fedem_jax.data.catalog import SOURCES, Source
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.data.synthetic import synthetic
from fedem_jax.errors import UserError, nearest

MAX_BYTES = 100 * 2**20
"""Most bytes of a downloaded archive or of the file in it; the largest known one has 24 MB."""


class Listing(NamedTuple):
    """A line in the list of data sets; its fields are those of `Source`."""

    name: str
    users: int
    items: int
    origin: str
    """Web page, or how it was new_folders."""


def known_datasets() -> list[Listing]:
    """Every name that `load` knows, with users, items and origin of its file."""
    _, truth = synthetic()
    embedded = Listing("synthetic", len(truth.group), len(truth.popularity), "embedded, planted")
    return [embedded] + [
        Listing(name, source.users, source.items, source.homepage)
        for name, source in SOURCES.items()
    ]


def load(
    dataset: str,
    protocol: str | Protocol = "leak-free",
    seed: int = 0,
    *,
    data_dir: str | Path = "",
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Federation:
    """Read a data set and split it into one client per user.

    Args:
        dataset: a known name (`known_datasets`), or the path of a file of your own.
        protocol: rules of the split, by name or new_folders by `fedem_jax.config.protocol.preset`.
        seed: seed of the sampled candidates that held-out items are ranked against.
        data_dir, columns, separator, header: as in `read`.

    Raises:
        UserError: as in `read` and `fedem_jax.data.split.split`.
    """
    rules = preset(protocol) if isinstance(protocol, str) else protocol
    interactions = read(
        dataset, data_dir=data_dir, columns=columns, separator=separator, header=header
    )
    name = dataset if dataset == "synthetic" or dataset in SOURCES else Path(dataset).stem
    return split(interactions, rules, seed, name)


def federation_of(config: Config, load: Callable[..., Federation] = load) -> Federation:
    """The federation of a configuration: its data set, split by its protocol and seed."""
    return load(
        config.dataset,
        config.rules(),
        config.seed,
        data_dir=config.data_dir,
        columns=config.columns,
        separator=config.separator,
        header=config.header,
    )


def read(
    dataset: str,
    *,
    data_dir: str | Path = "",
    columns: tuple[str, ...] = (),
    separator: str = "",
    header: str = "auto",
) -> Interactions:
    """The interactions of a known data set, or of a file of your own.

    A known data set that is absent is downloaded, and verified against its checksum before use. A
    file that is already there is used as it is. The synthetic data are always the same.

    Args:
        dataset: a known name (`known_datasets`), or the path of a file of your own.
        data_dir: folder of the known data sets; empty = `$FEDEM_DATA`, else `data/`.
        columns, separator, header: describe a file of your own, as in `readers.read`.

    Raises:
        UserError: the name is unknown, the file cannot be read, or the data set can be neither
            found nor downloaded. The sentence then says which file to put where.
    """
    if dataset == "synthetic":
        return synthetic()[0]
    if dataset in SOURCES:
        source = SOURCES[dataset]
        return source.read(_locate(dataset, source, data_dir))
    path = Path(dataset)
    if path.suffix or len(path.parts) > 1 or os.path.exists(path):
        return readers.read(path, columns, separator, header)
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
        _download(name, source, path)
    return path


# download


def _download(name: str, source: Source, path: Path) -> None:
    """Download, verify and unpack one file to `path`, which is written whole or not at all.

    Only the known member is read and only `path` is written. So no name in an archive decides where
    a file goes.
    """
    if not source.url:
        raise UserError(
            f"data set '{name}' is not at {path} and cannot be downloaded (its checksum is not "
            f"known); get it from {source.homepage} and put it there."
        )
    by_hand = f"get {source.url} yourself and put its {source.member} at {path}"
    import pooch  # slow to import, and only needed for a download

    new_folders = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
            archive = pooch.retrieve(
                source.url, source.checksum, "archive.zip", scratch, downloader=_fetch
            )
            unpacked = Path(scratch) / "member"
            unpacked.write_bytes(_member(Path(archive), source.member))
            unpacked.replace(path)
    except OSError as error:
        raise UserError(
            f"data set '{name}' is not at {path} and its download failed "
            f"({error.strerror or type(error).__name__}); {by_hand}."
        ) from None
    except ValueError:  # pooch raises it if the checksum differs
        raise UserError(
            f"data set '{name}': the checksum of {source.url} is not {source.checksum}, so the "
            f"download was deleted; try again later, or {by_hand}."
        ) from None
    finally:
        if not os.path.exists(path):
            _remove_empty(new_folders)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that a failed download new_folders, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # absent, or used by another process
            folder.rmdir()


def _fetch(url: str, output_file: str, pooch) -> None:
    """Download `url` for pooch: over https alone, also after redirects, at most `MAX_BYTES`.

    Raises:
        OSError: the server refuses, or the file is larger.
    """
    import requests

    with requests.Session() as session:
        del session.adapters["http://"]  # so a redirect to plain http is refused
        with session.get(url, stream=True, timeout=30) as response, open(output_file, "wb") as out:
            if not response.ok:
                raise OSError(0, f"HTTP status {response.status_code}")
            for chunk in response.iter_content(2**16):
                out.write(chunk)
                if out.tell() > MAX_BYTES:
                    raise OSError(0, f"more than {MAX_BYTES} bytes")


def _member(archive: Path, name: str) -> bytes:
    """The content of one file of a zip archive, at most `MAX_BYTES`.

    Raises:
        OSError: the file is missing, damaged, a link, or larger.
    """
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as file:
            if stat.S_ISLNK(opened.getinfo(name).external_attr >> 16):
                raise OSError(0, f"{name} in the archive is a link")
            content = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError):
        raise OSError(0, f"no intact {name} in the archive") from None
    if len(content) > MAX_BYTES:
        raise OSError(0, f"{name} has more than {MAX_BYTES} bytes")
    return content

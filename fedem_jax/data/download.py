"""Downloads a known data set: verified, unpacked, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from fedem_jax.data.catalog import Source
from fedem_jax.errors import UserError

MAX_BYTES = 2**30
"""Most bytes of a downloaded archive or of the file in it; the largest known one has 877 MB."""


def download(name: str, source: Source, path: Path) -> None:
    """Download, verify and unpack one file of a data set to `path`.

    Only the known member is read and only `path` is written. So no name in an archive decides where
    a file goes.
    """
    if not source.url:
        raise UserError(
            f"data set '{name}' is not at {path} and cannot be downloaded (its checksum is not "
            f"known); get {source.file or 'it'} from {source.homepage} and put it there."
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

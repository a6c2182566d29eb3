"""The content of a ratings file: read whole, unpacked, and called by its right name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from fedem_jax.data.cells import short
from fedem_jax.errors import UserError
from fedem_jax.units import in_bytes

LARGEST_FILE = 4 * 2**30
"""Most bytes that a file may have, also once it is unpacked: about 160 million ratings."""

_PACKED = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "is a zstd archive; unpack it and give the file in it",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it and give the file in it",
    b"Rar!": "is a rar archive; unpack it and give the file in it",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook (xls); save the sheet as CSV",
    b"\x89HDF": "is an HDF5 file; save the table as parquet or CSV",
    b"\x93NUMPY": "is a NumPy array; save the table as parquet or CSV",
    b"SQLite format 3": "is an SQLite database; save the table as parquet or CSV",
    b"%PDF": "is a PDF document; give the ratings as CSV",
}
_DAMAGED = (
    OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What the readers of archives raise; a RuntimeError for one that is encrypted."""
_PICKLES = (".pkl", ".pickle", ".p")


def content(path: Path) -> bytes:
    """The bytes of a regular file. A device or a pipe is refused, since it may never end."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder; give the ratings file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is no regular file; copy its content into one.")
        if status.st_size > LARGEST_FILE:
            raise UserError(
                f"{path}: has {in_bytes(status.st_size)}, more than {in_bytes(LARGEST_FILE)}; "
                "leave out users or columns."
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except ValueError:  # a path that holds a NUL character
        raise UserError(f"{str(path)!r}: is no path; check it.") from None


def unpacked(path: Path, packed: bytes) -> tuple[str, bytes]:
    """The suffix of the file inside of any packing, in lower case, and its bytes.

    Raises:
        UserError: the file is of a kind that is not read, damaged, or too large once unpacked.
    """
    for magic, trouble in _FOREIGN.items():
        if packed.startswith(magic):
            raise UserError(f"{path}: {trouble}.")
    if path.suffix.lower() in _PICKLES or (packed[:1] == b"\x80" and packed[-1:] == b"."):
        raise UserError(
            f"{path}: is a pickle, which can run any code when it is read; save the table as "
            "parquet or CSV."
        )
    if packed.startswith(b"PK\x03\x04"):
        return _of_zip(path, packed)
    for magic, (kind, reader) in _PACKED.items():
        if packed.startswith(magic):
            with reader(io.BytesIO(packed)) as file:
                inside = Path(path.stem) if len(path.suffixes) > 1 else path
                return inside.suffix.lower(), _bounded(path, kind, file)
    return path.suffix.lower(), packed


def _of_zip(path: Path, packed: bytes) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            names = [
                name
                for name in archive.namelist()
                if not name.endswith("/") and not name.startswith("__MACOSX/")
            ]
            if "xl/workbook.xml" in names:
                raise UserError(f"{path}: is an Excel workbook (xlsx); save the sheet as CSV.")
            if len(names) != 1:
                listed = ", ".join(short(name) for name in names[:5]) or "no file"
                raise UserError(
                    f"{path}: is a zip archive of {len(names)} files ({listed}); unpack it and "
                    "give the ratings file in it."
                )
            with archive.open(names[0]) as file:
                return Path(names[0]).suffix.lower(), _bounded(path, "zip", file)
    except _DAMAGED:
        raise UserError(f"{path}: is a zip archive that cannot be read; unpack it.") from None


def _bounded(path: Path, kind: str, file) -> bytes:
    try:
        found = file.read(LARGEST_FILE + 1)
    except _DAMAGED:
        raise UserError(f"{path}: is a damaged {kind} archive; get it again.") from None
    if len(found) > LARGEST_FILE:
        raise UserError(
            f"{path}: has more than {in_bytes(LARGEST_FILE)} once it is unpacked; leave out users "
            "or columns."
        )
    return found

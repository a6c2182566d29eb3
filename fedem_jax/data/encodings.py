"""Bytes of a text file -> text with a line feed at the end of each line."""

from __future__ import annotations

import codecs
from pathlib import Path

from fedem_jax.errors import UserError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The longer marks stand before those that they begin with."""


def decode(path: Path, content: bytes, encoding: str = "") -> tuple[str, str]:
    """The text, and a note if its encoding is not UTF-8.

    Args:
        path: the file, for messages.
        content: bytes of the file.
        encoding: empty = by the byte order mark, else UTF-8, else UTF-16 without mark, else cp1252
            (Latin-1) as a guess.

    Raises:
        UserError: the content is no text of this encoding.
    """
    note, known = "", encoding
    if encoding:
        try:
            codecs.lookup(encoding)
            "".encode(encoding)
        except (LookupError, ValueError, UnicodeError):
            raise UserError(
                f"encoding: {encoding[:40]!r} is unknown; give one such as utf-8 or latin-1."
            ) from None
        note = f"encoding {encoding} (by setting)"
    else:
        known = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
        note = f"encoding {known}" if known.startswith(("utf-16", "utf-32")) else ""
    if not known and _is_utf16(content):
        known = "utf-16-le" if content[1] == 0 else "utf-16-be"
        note = f"encoding {known} (a guess)"
    if not known and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UserError(f"{path}, line {line}: holds binary data; give a text or parquet file.")
    text, known = _decoded(path, content, known)
    if known in ("cp1252", "latin-1") and not encoding:
        note = f"encoding {known} (a guess)"
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds binary data; give a text or parquet file.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"), note


def _is_utf16(content: bytes) -> bool:
    """Whether text in Latin letters stands in two bytes each."""
    head = content[:200]
    if len(head) < 4:
        return False
    even, odd = head[::2], head[1::2]
    return even.count(0) + odd.count(0) > len(head) // 3 and (not any(even) or not any(odd))


def _decoded(path: Path, content: bytes, encoding: str) -> tuple[str, str]:
    for tried in [encoding] if encoding else ["utf-8", "cp1252", "latin-1"]:
        try:
            return content.decode(tried), tried
        except UnicodeError as error:
            start = getattr(error, "start", 0)
    line = content.count(b"\n", 0, start) + 1
    raise UserError(
        f"{path}, line {line}: is no {encoding} text; set encoding to the one of the file."
    )

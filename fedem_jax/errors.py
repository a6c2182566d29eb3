"""Exceptions whose message is written for the user, and words for such messages."""

from __future__ import annotations

import difflib
import errno
import os


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one sentence. It names the file, line or value and the remedy. The command line
    prints it without a traceback and exits with `status`.
    """

    status = 2


class CannotResume(UserError):
    """A run cannot be resumed from the files on disk; it can only start over."""


class PeerLost(UserError):
    """Another process of the same run has ended, or cannot be reached."""

    status = 4


class Stopped(KeyboardInterrupt):
    """A signal asked a run to stop, and its state is on disk."""

    def __init__(self, number: int, message: str = ""):
        """Take the number of the signal, and what to tell the user."""
        super().__init__(message)
        self.number = number


SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)
"""Error numbers of a disk. Libraries quote their texts in errors of their own."""


def in_short(error: BaseException) -> str:
    """The cause of an error in one line: the text of the system if there is one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    causes = (os.strerror(number) for number in SYSTEM)
    lines = str(error).splitlines() or [type(error).__name__]
    return next((cause for cause in causes if cause in str(error)), lines[0][:200])


def nearest(name: str, known: list[str]) -> str:
    """The end of an error sentence: the known name closest to `name`, and all known names."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(known)}"

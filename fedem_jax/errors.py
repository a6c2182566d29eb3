"""The exceptions that a user is meant to see."""

from __future__ import annotations

import difflib
import errno
import os


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that names the file, line or value and the remedy. The command
    line prints it without a traceback and exits with status 2.
    """


class CannotResume(UserError):
    """A run cannot go on from what is on disk; it can only start over."""


class Stopped(KeyboardInterrupt):
    """The user or the system asked a run to stop, and what it had reached is on disk."""

    def __init__(self, number: int, message: str = ""):
        """number: of the signal that asked."""
        super().__init__(message)
        self.number = number


SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EIO)
"""What the system says of a disk; libraries put its words into errors of their own."""


def in_short(error: BaseException) -> str:
    """What went wrong, in a line: the system's words where it has some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    known = (os.strerror(number) for number in SYSTEM)
    lines = str(error).splitlines() or [type(error).__name__]
    return next((words for words in known if words in str(error)), lines[0][:200])


def nearest(name: str, known: list[str]) -> str:
    """The end of an error sentence: the nearest of `known`, if any is near, and the whole list."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(known)}"

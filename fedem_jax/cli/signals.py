"""Stops a run on Ctrl-C (SIGINT) or on SIGTERM, which schedulers send."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """A context manager: the first signal asks the program to stop, the second ends it.

    Python runs signal handlers only between its own instructions, so not while it waits for a
    compilation. Therefore a thread reads the signals from a pipe that the system writes at once.
    """

    def __init__(self, say: Callable[[str], None]):
        """Take the function `say`, which is called with a sentence at the first signal."""
        self._say, self._asked = say, 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> int:
        """Number of the first signal; 0 if none has come."""
        return self._asked

    def __enter__(self) -> Stopping:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread gets signals
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._wakeup = signal.set_wakeup_fd(self._writer)
        for number in ASKED:
            self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)
        self._listener.join()
        os.close(self._reader)

    def _listen(self) -> None:
        while byte := os.read(self._reader, 1):
            if byte[0] not in ASKED:
                continue
            if self._asked:
                sys.stdout.write("\x1b[?25h" if sys.stdout.isatty() else "")  # show the cursor
                sys.stdout.flush()
                os._exit(128 + byte[0])
            self._asked = byte[0]
            self._say("stopping after this segment of rounds; a second signal stops at once")

"""The console that all commands print to."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.text import Text


class Terminal(Console):
    """A console that colours no numbers, and for which a closed pipe is a `BrokenPipeError`."""

    def __init__(self, **options: Any):
        """Options of rich's console."""
        super().__init__(highlight=False, **options)
        if self.is_dumb_terminal:  # which rich takes to have 80 columns
            self.width, self.height = shutil.get_terminal_size()

    def say(self, sentence: str) -> None:
        """Print a sentence, as the function `say` does."""
        say(self, sentence)

    def on_broken_pipe(self) -> None:
        """Let the command end with the status of a closed pipe; rich would end it with 1."""
        raise BrokenPipeError


def say(console: Console, sentence: str, style: str = "") -> None:
    """Print a sentence in one line, as it stands; if the console is quiet, on standard error."""
    shown = Terminal(stderr=True) if console.quiet else console
    shown.print(Text(sentence, style), soft_wrap=True)

"""Observers: they follow a run, such as a progress bar, and may ask for an early end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Record, Setting, Summary

if TYPE_CHECKING:
    import pandas as pd


class Observer:
    """Follows a run. A subclass has those of these methods that it needs.

    An error that an observer raises ends the run. Its records stay on disk.
    """

    def on_start(self, setting: Setting) -> None:
        """Called before anything is compiled.

        Args:
            setting: `config`, `federation`, `device` and `versions`.
        """

    def on_resume(self, records: Sequence[Record]) -> str | bool | None:
        """Called after `on_start` if the run is resumed. Passes each record on to `on_round`.

        So an observer hears of all rounds. An answer of `on_round` counts here too: the run then
        ends at the round that it was resumed at.

        Args:
            records: those of the rounds before, at least one.
        """
        answers = [self.on_round(record) for record in records]
        return next(filter(None, answers), None)

    def on_round(self, record: Record) -> str | bool | None:
        """Called after each evaluated round.

        Args:
            record: the line of `metrics.jsonl`.

        Returns:
            A reason, or True, to end the run after this round. The run then has its summary and its
            files as any other, and the reason stands in the summary as `ended_early`. None or False
            lets it go on.
        """

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Called after the last round.

        Args:
            summary: what `summary.json` holds.
            per_client: as in `Result`.
        """

    def on_close(self) -> None:
        """Called last, however the run ended; the place to close files."""


class Observers(Observer):
    """Several observers as one; a context manager, which closes them all."""

    def __init__(self, each: Sequence[Observer]):
        self._each = each

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *_) -> None:
        with ExitStack() as stack:
            for observer in reversed(self._each):
                stack.callback(observer.on_close)

    def on_start(self, setting: Setting) -> None:
        """Call all in turn."""
        for observer in self._each:
            with named(observer):
                observer.on_start(setting)

    def on_resume(self, records: Sequence[Record]) -> str:
        """Call all in turn; the first reason to end the run, or nothing."""
        return self._asked(lambda observer: observer.on_resume(records))

    def on_round(self, record: Record) -> str:
        """Call all in turn; the first reason to end the run, or nothing."""
        return self._asked(lambda observer: observer.on_round(record))

    def _asked(self, ask: Callable[[Observer], str | bool | None]) -> str:
        """The first reason that an observer answers with, once all were asked."""
        answers = []
        for observer in self._each:
            with named(observer):
                answers.append(reason(observer, ask(observer)))
        return next(filter(None, answers), "")

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Call all in turn."""
        for observer in self._each:
            with named(observer):
                observer.on_end(summary, per_client)


def reason(observer: object, answer: str | bool | None) -> str:
    """Why an observer wants the run to end, in words; nothing if it does not."""
    if isinstance(answer, str):
        return answer
    return f"{type(observer).__name__} asked for it" if answer else ""


@contextmanager
def named(observer: Observer) -> Iterator[None]:
    """Say in an error which observer raised it, unless it is a sentence for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        error.add_note(f"The observer {type(observer).__name__} raised this.")
        raise

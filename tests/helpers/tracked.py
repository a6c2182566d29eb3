"""Runs of the toy that a tracker follows, and what it should have heard."""

import pytest
from cutting import cut_off, run, toys
from toy import small_federation

from fedem_jax.errors import UserError
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.observers import Observer


class Ends(Observer):
    """Ends a run after two rounds, with a reason or with an error."""

    def __init__(self, error=None):
        self.error = error

    def on_round(self, record):
        if record["round"] == 2 and self.error:
            raise self.error
        return "enough" if record["round"] == 2 else None


class Tracked:
    """Runs of five rounds, each with a tracker."""

    def __init__(self, monkeypatch, folder):
        self.federation = small_federation()
        self.config, self.folder = toys(monkeypatch, self.federation), folder

    def whole(self, tracker):
        return run(self.config, self.federation, [tracker])

    def early(self, tracker):
        return run(self.config, self.federation, [tracker, Ends()])

    def broken(self, tracker):
        with pytest.raises(UserError, match="lost"):
            run(self.config, self.federation, [tracker, Ends(UserError("lost."))])

    def resumed(self, make):
        """Cut off after three rounds and resumed; `make` makes a tracker for each part."""
        cut_off(self.config, self.federation, self.folder, 3, observers=[make()])
        return run(self.config, self.federation, [make()], RunDirectory(self.folder, True, str))


def curve(result, name):
    """Round and value of a metric of all records, by its name in a tracker."""
    part, _, metric = name.replace("_at_", "@").rpartition("/")
    values = [(each["round"], (each[part] if part else each)[metric]) for each in result.records]
    return [(number, pytest.approx(value, rel=1e-6)) for number, value in values]

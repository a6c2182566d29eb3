"""`fedem train` without training: a run with made-up numbers."""

import sys
import types

from made_up import federation, made_up


def install(monkeypatch, tmp_path, after=lambda observers: None):
    """Runs with made-up numbers, in an empty working directory.

    Args:
        after: called with the observers of each run.
    """

    def run(config, _, observers, directory, stop) -> None:
        setting = {
            "config": config, "federation": federation(config), "device": "cpu x 2",
            "versions": {"jax": "1.2.3"},
        }  # fmt: skip
        found, clients = made_up(config)
        for observer in (directory, *observers):
            observer.on_start(setting)
            for record in found.records:
                observer.on_round(record)
            observer.on_end(found.summary, clients)
        after(observers)

    module = types.ModuleType("fedem_jax.runs.train")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "fedem_jax.runs.train", module)
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)

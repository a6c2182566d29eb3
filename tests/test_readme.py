"""The README's Python example runs as it stands, and its commands use flags that exist."""

import dataclasses
import re
from pathlib import Path

import jax

from fedem_jax.cli.sweep import SweepCommand
from fedem_jax.config.registry import METHODS

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_python_example_runs(tmp_path, monkeypatch):
    """As on a machine with one device."""
    monkeypatch.chdir(tmp_path)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    (example,) = blocks("python")
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    rounds = scope["config"].rounds
    assert len(scope["result"].curve) == rounds
    assert 1 <= scope["result"].summary["headline"]["round"] <= rounds


def test_the_flags_of_the_commands_are_fields_of_config():
    kinds = [*(method.settings for method in METHODS.values()), SweepCommand]
    fields = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    known = {f"--{name.replace('_', '-')}" for name in fields}
    used = set(re.findall(r"--[a-z][a-z-]*", "\n".join(blocks("sh"))))
    assert used <= known | {"--config", "--help", "--html", "--k", "--picture", "--resume"}

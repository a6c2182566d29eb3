"""The texts of options fill the terminal, whatever its width."""

import itertools
from dataclasses import dataclass

import pytest
import tyro

from fedem_jax.cli import main as cli
from fedem_jax.cli.parsing import parse


@dataclass
class Lower:
    """Settings."""

    depth: int = 3
    """How deep it goes, in steps that
    are counted from the top."""


@dataclass
class Options:
    """A command."""

    settings: tyro.conf.OmitArgPrefixes[Lower]
    name: str = ""
    """What it is called, where
    --depth is no name."""


DEFAULT = Options(settings=Lower(depth=5))


def test_a_text_is_one_paragraph_also_where_a_line_begins_with_a_flag(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(Options, "x", ["--help"], default=DEFAULT)
    lines = capsys.readouterr().out.splitlines()
    for text in ("in steps that are counted from the top.", "where --depth is no name."):
        assert any(text in line for line in lines)


def test_arguments_are_read_as_ever():
    read = parse(Options, "x", ["--name", "a"], default=DEFAULT)
    assert (read.name, read.settings.depth) == ("a", 5)


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_of_a_text_ends_early(capsys, monkeypatch, columns):
    """A line has no room for the first word of the next, but for the last one of a text."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = capsys.readouterr().out.replace("│", " ").splitlines()
    texts = [line.rstrip() for line in lines if line[:24].isspace() and line.strip()]
    assert len(texts) > 50
    for line, following in itertools.pairwise(texts):
        if not line.endswith(")"):
            assert len(line) + len(following.split()[0]) + 3 >= columns, line

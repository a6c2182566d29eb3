"""The options of a command from its arguments, or their help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import tyro

Kind = TypeVar("Kind")


def parse(kind: type[Kind], prog: str, args: Sequence[str], default: Kind | None = None) -> Kind:
    """Parse the options of a command.

    Args:
        kind: class of the options.
        prog: name of the command, for its help.
        args: arguments of the command.
        default: what the arguments change; None: the defaults of the class.
    """
    if not {"-h", "--help"}.isdisjoint(args):
        in_paragraphs(kind)
        settings = getattr(default, "settings", None)
        if settings is not None:
            in_paragraphs(type(settings))
    if default is None:
        return tyro.cli(kind, prog=prog, args=args)
    return tyro.cli(kind, prog=prog, args=args, default=default)


def in_paragraphs(kind: type[Any]) -> None:
    """Give tyro the text of each option as one paragraph.

    By itself tyro keeps the line breaks of the source. A terminal of another width then shows
    half-empty lines.
    """
    from docstring_parser import parse_from_object

    texts = {}
    for each in reversed(kind.__mro__[:-1]):
        for text in parse_from_object(each).params:
            texts[text.arg_name] = " ".join((text.description or "").split())
    for field in dataclasses.fields(kind):
        if field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})

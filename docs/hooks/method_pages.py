"""A page for each method, from its file, its settings, its presets and its traffic."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import fedem_jax as fj
from fedem_jax.config.base import Config, Range
from fedem_jax.config.plugins import Registered
from fedem_jax.config.presets import RELEASED
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.config.tuned import tuned
from fedem_jax.units import in_bytes

QUIRK = re.compile(r"\b(released|program|programs|paper)\b")
"""Words by which a setting says that paper and program differ, or whom it follows."""


def pages(overview: str) -> Iterator[tuple[str, str]]:
    """Path and text of every page.

    Args:
        overview: text of `methods/index.md`, with a row of its table for each method.

    Raises:
        ValueError: the table lacks a method.
    """
    rows = _rows(overview)
    missing = sorted(set(METHODS) - set(rows))
    if missing:
        raise ValueError(f"docs/methods/index.md has no row for {', '.join(missing)}.")
    federation = fj.load("synthetic")
    for name, method in METHODS.items():
        traffic = fj.Simulation(fj.preset("released", method=name), federation).algorithm.traffic
        costs = f"{in_bytes(traffic.up)} up and {in_bytes(traffic.down)} down"
        yield f"methods/{name}.md", _page(name, method, rows[name], costs)
    yield "methods/settings.md", _shared_settings()


def title(method: Method) -> str:
    """The name of a method as its file writes it, such as FedEM."""
    return re.match(r"[^(:]+", _module_doc(method)).group().strip()


def _page(name: str, method: Method, row: list[str], costs: str) -> str:
    kept, sent, back = row
    parts = [
        f"# {title(method)}",
        f"`fedem train --method {name}`. The code is `{_path(method)}`.",
        *_algorithm(_module_doc(method)),
        "## What it sends",
        f"| a client keeps | is sent to the server | comes back |\n| --- | --- | --- |\n"
        f"| {kept} | {sent} | {back} |",
        "Bytes of a round over all clients of the embedded federation, with the released settings: "
        f"{costs} (`fedem plan --method {name} --preset released`).",
        *_wire(method),
        "## Settings",
        _prose(inspect.getdoc(method.settings) or ""),
        _settings_table(method.settings, _own(method.settings)),
        "The rest are [settings of all methods](settings.md).",
        *_quirks(name, method.settings),
        *_tuned(name),
    ]
    return "\n\n".join(parts) + "\n"


def _shared_settings() -> str:
    names = [field.name for field in dataclasses.fields(Config) if field.name != "method"]
    return "\n\n".join(
        [
            "# Settings of all methods",
            _prose(inspect.cleandoc(Config.__doc__ or "").split("Raises:")[0]),
            _settings_table(Config, names),
        ]
    )


def _rows(overview: str) -> dict[str, list[str]]:
    """Cells of the overview by method."""
    found = re.findall(r"^\| \[`([\w-]+)`\]\(\S+\) \|(.*)\|$", overview, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


def _path(method: Method) -> str:
    return f"fedem_jax/methods/{str(method.algorithm).partition(':')[0]}.py"


def _tree(method: Method) -> ast.Module:
    return ast.parse((Path(fj.__file__).parent.parent / _path(method)).read_text())


def _module_doc(method: Method) -> str:
    return ast.get_docstring(_tree(method)) or ""


def _algorithm(doc: str) -> Iterator[str]:
    """The docstring of a file: its indented part is the algorithm box, the rest is text."""
    for part in re.split(r"\n\s*\n", doc):
        if part.startswith(" "):
            yield "## Algorithm"
            yield f"```text\n{textwrap.dedent(part)}\n```"
        else:
            yield _prose(part)


def _wire(method: Method) -> Iterator[str]:
    """The types that cross the wire, where the file of a method declares them."""
    for node in _tree(method).body:
        if isinstance(node, ast.ClassDef) and node.name in ("Upload", "Download"):
            fields = list(_fields(node))
            columns = 3 if any(text for *_, text in fields) else 2
            rows = [("field", "shape", "meaning"), ("---", "---", "---")]
            rows += [(f"`{name}`", f"`{kind}`", _prose(text)) for name, kind, text in fields]
            yield f"`{node.name}`: {_prose(ast.get_docstring(node) or '')}"
            yield "\n".join(f"| {' | '.join(row[:columns])} |" for row in rows)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, annotation and documentation of the fields of a class."""
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = inspect.cleandoc(str(after.value.value))
            yield field.target.id, ast.unparse(field.annotation), text


def _documentation(kind: type) -> dict[str, str]:
    """The help of every setting of a class. A subclass may give a new one."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        found |= {name: text for name, _, text in _fields(node) if text}
    return found


def _own(kind: type[Config]) -> list[str]:
    """Settings that only some methods have, and those whose default is another one here."""
    shared = {field.name: field.default for field in dataclasses.fields(Config)}
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.name != "method" and shared.get(field.name, ...) != field.default
    ]


def _settings_table(kind: type[Config], names: Iterable[str]) -> str:
    hints, texts = get_type_hints(kind, include_extras=True), _documentation(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    lines = ["| setting | default | accepts | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        meaning = _prose(texts.get(name, ""))
        cells = _flag(name), _value(defaults[name]), _accepts(hints[name]), meaning
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _flag(name: str) -> str:
    return f"`--{name.replace('_', '-')}`"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return f"`{value}`" if value != "" else "empty"


def _accepts(kind: Any) -> str:
    """What a setting accepts, from its annotation."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind) if choice)
    if get_origin(kind) is Annotated:
        for each in get_args(kind):
            if isinstance(each, Registered):
                return f"{', '.join(f'`{name}`' for name in each.known)}, or a registered name"
        number = {int: "an integer", float: "a number"}[get_args(kind)[0]]
        ranges = [str(each) for each in get_args(kind) if isinstance(each, Range)]
        return " ".join([number, *ranges])
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return "names" if inner is str else f"several: each {_accepts(inner)}"
    return {bool: "yes or no", str: "text"}[kind]


def _quirks(name: str, kind: type[Config]) -> Iterator[str]:
    """Where paper and program differ, and what has no effect."""
    yield "## Quirks"
    texts = _documentation(kind)
    found = [n for n in _own(kind) if QUIRK.search(texts.get(n, "")) and n not in ("ldp_scale",)]
    if found:
        yield "These settings choose between paper and released program, or follow one of them:"
        yield "\n".join(f"- {_flag(n)}: {_prose(texts[n])}" for n in found)
    else:
        yield "No setting chooses between a paper and a released program."
    idle = kind().without_effect()
    if idle:
        flags = ", ".join(map(_flag, idle))
        yield f"With the default settings these have no effect: {flags}."
    if kind.variants:
        variants = ", ".join(f"`{name}:{variant}`" for variant in kind.variants)
        yield f"A comparison of all methods also runs {variants}."
    for (method, data), settings in RELEASED.items():
        if method == name:
            flags = " ".join(f"--{n.replace('_', '-')} {v}" for n, v in settings.items())
            yield f"On `{data}` the preset `released` is `{flags}`, as its authors chose there."


def _tuned(name: str) -> Iterator[str]:
    """Settings found on validation under `leak-free`."""
    entries = {data: entry for (method, data), entry in tuned().items() if method == name}
    if not entries:
        return
    yield "## Tuned settings"
    yield (
        "Found on validation items under `leak-free`. "
        f"`fedem train --method {name} --dataset NAME --preset tuned` uses them."
    )
    for data, entry in entries.items():
        settings = ", ".join(f"`{n}={_plain(v)}`" for n, v in entry.settings.items())
        yield f"**`{data}`**: {settings}. {_prose(entry.found)}"
        if entry.command:
            yield f"```text\n{entry.command}\n```"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _prose(text: str) -> str:
    """Text of a docstring as Markdown: signs that Markdown would read stand for themselves."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    signs = re.compile(r"([*_\[\]<|\\])")
    return "".join(p if p.startswith("`") else signs.sub(r"\\\1", p) for p in pieces)

"""One page of HTML that holds all it needs: style, script, figures and tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from fedem_jax.errors import UserError
from fedem_jax.report.tables import Cell, Row, Table
from fedem_jax.storage.files import disk_errors, put

STYLE, SCRIPT = (Path(__file__).with_name(f"page.{kind}") for kind in ("css", "js"))
REPORT = "report.html"
"""Name of the page beside the tables of a comparison or of a sweep."""
ALLOWED = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
"""What a browser may load for a page: what stands in it, and nothing from a network."""


class Section(NamedTuple):
    """A part of a page."""

    title: str
    parts: Sequence[str]
    """HTML, from the functions of this module and of `figures`."""


def can_draw() -> bool:
    """Whether the plotting library of the pages is installed. It is not imported."""
    return importlib.util.find_spec("plotly") is not None


def need_library() -> None:
    """Refuse to go on without the plotting library.

    Raises:
        UserError: it is not installed.
    """
    if not can_draw():
        raise UserError(
            "html: a report in HTML needs plotly; install it with `pip install 'fedem_jax[html]'`."
        )


def write_page(path: Path, title: str, lead: str, sections: Iterable[Section]) -> None:
    """Write a page, whole or not at all.

    Args:
        path: of the page.
        title: its heading.
        lead: a sentence below.
        sections: those without parts are left out.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    need_library()
    text = _document(title, lead, [section for section in sections if section.parts])
    with disk_errors(path, "give another path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, lambda file: file.write_text(text, encoding="utf-8"))


def sentence(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """A command, or the text of a file."""
    return f"<pre><code>{escape(text)}</code></pre>"


def cards(values: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: a label, a value and a remark each."""
    shown = (
        f'<div class="card"><span>{escape(label)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(remark)}</small></div>"
        for label, value, remark in values
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def facts(values: Mapping[str, str]) -> str:
    """Names and what they stand for, one below the other; empty ones are left out."""
    shown = (
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in values.items()
        if value
    )
    return f"<dl>{''.join(shown)}</dl>"


def grid(figures: Iterable[str]) -> str:
    """Figures beside one another, as many as there is room for."""
    return f'<div class="figures">{"".join(figures)}</div>'


def sortable(table: Table) -> str:
    """A table whose columns sort by a click, with its title and notes."""
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    names = [escape(" ".join(name.split())) for name in table.header]
    head = "".join(
        f'<th class="{side}" scope="col"><button type="button">{name}</button></th>'
        for name, side in zip(names, table.sides, strict=True)
    )
    body = "".join(_row(row, table.sides) for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    if not table.rows:
        return title + notes
    return (
        f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{notes}"
    )


def _row(row: Row, sides: str) -> str:
    cells = "".join(
        f'<td class="{side}">{_cell(cell)}</td>'
        for cell, side in zip(row.cells, sides, strict=True)
    )
    kind = f' class="{escape(row.style)}"' if row.style else ""
    return f"<tr{kind}>{cells}</tr>"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    value = f"<b>{escape(cell.value)}</b>" if cell.best else escape(cell.value)
    return f"{value} <small>{escape(cell.aside)}</small>" if cell.aside else value


def _document(title: str, lead: str, sections: Sequence[Section]) -> str:
    from plotly.offline import get_plotlyjs

    links = "".join(
        f'<a href="#part{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    body = "".join(
        f'<section id="part{number}"><h2>{escape(section.title)}</h2>{"".join(section.parts)}'
        "</section>"
        for number, section in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{ALLOWED}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text()}</style>\n"
        f"<script>{get_plotlyjs()}</script></head>\n"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav>{links}</nav></header>\n"
        f"<main>{body}</main>\n<script>\n{SCRIPT.read_text()}</script></body></html>\n"
    )

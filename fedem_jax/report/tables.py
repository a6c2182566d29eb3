"""Tables in one form, shown in a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text


class Cell(NamedTuple):
    """A value in a table."""

    value: str
    aside: str = ""
    """Shown below the value in a terminal, and after it in Markdown."""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.value} {self.aside}".rstrip()


class Row(NamedTuple):
    """A line of a table."""

    cells: Sequence[Cell | str]
    style: str = ""
    """Style of the row in a terminal, such as `bold`."""
    apart: bool = False
    """Whether a terminal shows a gap above the row."""


class Table(NamedTuple):
    """A table; without rows only its title and notes are shown."""

    title: str
    header: Sequence[str]
    """A name for each column; Markdown replaces its line breaks by spaces."""
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    """Sentences below the table."""
    align: str = ""
    """`l` or `r` for each column; empty: `l` for the first, `r` for the others."""
    label_width: int = 0
    """Least width of the first column in a terminal, so that several tables align."""

    @property
    def sides(self) -> str:
        """`l` or `r` for each column."""
        return self.align or "l" + "r" * (len(self.header) - 1)


def mean_cell(mean: float, sd: float = np.nan, *, best: bool = False) -> Cell:
    """A mean with its standard deviation. A NaN of either is left out."""
    if np.isnan(mean):
        return Cell("")
    return Cell(f"{mean:.4f}", "" if np.isnan(sd) else f"± {sd:.4f}", best)


Shown = RenderableType
"""What a console prints."""


def in_terminal(*parts: Table | Shown) -> Shown:
    """Tables and sentences for a terminal. Text is never parsed as markup."""
    shown: list[Shown] = []
    for part in parts:
        if isinstance(part, Table):
            shown += [Text(f"\n{part.title}", "bold")] if part.title else []
            shown += [_grid(part)] if part.rows else []
            shown += [Text(note, "dim") for note in part.notes]
        else:
            shown.append(Text(part) if isinstance(part, str) else part)
    return Group(*shown)


def styled(sentence: str, style: str) -> Text:
    """A sentence in a style such as `dim`."""
    return Text(sentence, style)


def in_markdown(table: Table) -> str:
    """The rows of a table as Markdown, without title and notes."""
    lines = [[name.replace("\n", " ").strip() for name in table.header]]
    lines.append(["---" if side == "l" else "---:" for side in table.sides])
    lines += [[_marked(cell) for cell in row.cells] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written_files(directory: Path, files: Sequence[str]) -> Text:
    """A sentence that names the files of a folder."""
    return Text.assemble((f"{directory}/", "bold"), f" holds {', '.join(files)}")


def _marked(cell: Cell | str) -> str:
    if isinstance(cell, Cell) and cell.best:
        cell = cell._replace(value=f"**{cell.value}**")
    return str(cell).replace("|", "\\|")


def _grid(table: Table) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, side in zip(table.header, table.sides, strict=True):
        justify = "left" if side == "l" else "right"
        grid.add_column(Text(name, justify=justify), justify=justify, overflow="fold")
    grid.columns[0].min_width = table.label_width or None
    for row in table.rows:
        if row.apart:
            grid.add_section()
        grid.add_row(*map(_shown, row.cells), style=row.style)
    return grid


def _shown(cell: Cell | str) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    value = (f"*{cell.value}", "bold") if cell.best else cell.value
    return Text.assemble(value, (f"\n{cell.aside}" if cell.aside else "", "dim"))

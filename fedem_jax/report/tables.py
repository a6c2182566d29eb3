"""Tables in one form, shown in a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from fedem_jax.evaluation.metrics import Metric


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
    drop: Sequence[int] = ()
    """Columns that a narrow terminal does without, the least important first; empty: from the right
    to the left. The first column always stays."""

    @property
    def sides(self) -> str:
        """`l` or `r` for each column."""
        return self.align or "l" + "r" * (len(self.header) - 1)


def mean_cell(mean: float, sd: float = np.nan, *, best: bool = False) -> Cell:
    """A mean with its standard deviation. A NaN of either is left out."""
    if np.isnan(mean):
        return Cell("")
    return Cell(f"{mean:.4f}", "" if np.isnan(sd) else f"± {sd:.4f}", best)


LABEL = 17
"""Cells that the first column keeps in a narrow terminal, where its words are folded."""
LONGEST = 30
"""Cells from which a column holds no numbers but words, which may be folded."""

IMPORTANCE = ("precision", "mrr", "map", "recall", "ndcg", "hr")
"""Metrics, the least important first."""

Shown = RenderableType
"""What a console prints."""


def in_terminal(*parts: Table | Shown) -> Shown:
    """Tables and sentences for a terminal. Text is never parsed as markup."""
    shown: list[Shown] = []
    for part in parts:
        if isinstance(part, Table):
            shown += [Text(f"\n{part.title}", "bold")] if part.title else []
            shown += [Fitted(part)] if part.rows else []
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


def least_important(metrics: Sequence[Metric], first: int) -> list[int]:
    """The columns of metrics that a narrow table can do without, the least important first; the
    most important one is not among them.

    Args:
        first: column of the first metric.
    """

    def importance(place: int) -> tuple[int, bool]:
        part, name = metrics[place]
        return IMPORTANCE.index(name.partition("@")[0]), not part.endswith("_full")

    return [first + place for place in sorted(range(len(metrics)), key=importance)[:-1]]


class Fitted:
    """The rows of a table, with as many columns as the terminal has room for.

    Numbers are never folded. Columns are left out by importance, and a sentence names them.
    """

    def __init__(self, table: Table):
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, room = self._table, options.max_width
        columns = list(range(len(table.header)))
        left: list[int] = []
        for column in table.drop or range(len(columns) - 1, 0, -1):
            if len(columns) <= 2 or _width(table, columns) <= room:
                break
            columns.remove(column)
            left.append(column)
        yield _grid(table, columns)
        if left:
            names = ", ".join(" ".join(table.header[column].split()) for column in sorted(left))
            yield Text(f"left out for lack of room: {names}", "dim")


def _width(table: Table, columns: Sequence[int]) -> int:
    """Cells that these columns take; the label is then at least readable, if it is folded."""
    widths = [min(_widest(table, column), LONGEST) for column in columns]
    widths[0] = max(table.label_width, min(widths[0], LABEL))
    return sum(widths) + 2 * (len(columns) - 1) + 1


def _widest(table: Table, column: int) -> int:
    cells = [Text(table.header[column]), *(_shown(row.cells[column]) for row in table.rows)]
    return max(cell_len(line) for cell in cells for line in cell.plain.split("\n"))


def _marked(cell: Cell | str) -> str:
    if isinstance(cell, Cell) and cell.best:
        cell = cell._replace(value=f"**{cell.value}**")
    return str(cell).replace("|", "\\|")


def _grid(table: Table, columns: Sequence[int]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify = "left" if table.sides[column] == "l" else "right"
        name = Text(table.header[column], justify=justify)
        grid.add_column(name, justify=justify, overflow="fold")
        if column:
            grid.columns[-1].min_width = min(_widest(table, column), LONGEST)
    grid.columns[0].min_width = table.label_width or None
    for row in table.rows:
        if row.apart:
            grid.add_section()
        grid.add_row(*(_shown(row.cells[column]) for column in columns), style=row.style)
    return grid


def _shown(cell: Cell | str) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    value = (f"*{cell.value}", "bold") if cell.best else cell.value
    return Text.assemble(value, (f"\n{cell.aside}" if cell.aside else "", "dim"))

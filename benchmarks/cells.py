"""A table as cells, shown in a terminal (Rich) or written as Markdown: the same cells both times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

TERMINAL_WIDTH = 120  # columns, where stdout is not a terminal


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One table. Rows that share their first cell belong together."""

    title: str
    headers: tuple[str, ...]
    text_columns: int  # left-aligned; the others are figures
    rows: tuple[tuple[str, ...], ...]


def show(tables: Iterable[Cells], notes: Iterable[str]) -> None:
    """Print the tables to the terminal, and the notes below them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TERMINAL_WIDTH
    for cells in tables:
        table = Table(title=cells.title, title_justify="left", box=box.SIMPLE)
        for index, header in enumerate(cells.headers):
            text = index < cells.text_columns
            table.add_column(header, justify="left" if text else "right", no_wrap=text)
        grouped = len({row[:1] for row in cells.rows}) < len(cells.rows)
        for previous, row in zip((row[:1] for row in ((), *cells.rows)), cells.rows, strict=False):
            if grouped and previous and previous != row[:1]:
                table.add_section()
            table.add_row(*row)
        console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)


def as_markdown(tables: Iterable[Cells], notes: Iterable[str]) -> str:
    """The tables and their notes as Markdown, without a heading of the page's own."""
    blocks = []
    for cells in tables:
        ruler = ["---" if index < cells.text_columns else "---:" for index in range(len(cells.headers))]
        lines = [_line(cells.headers), _line(ruler), *map(_line, cells.rows)]
        blocks.append("\n".join([f"**{cells.title}**", "", *lines]))
    blocks.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(blocks)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""Tables as cells, shown in a terminal (Rich) or written as Markdown: the same cells both times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.answers import show_notes, terminal, titled


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One table. Rows that share their first cell belong together."""

    title: str
    headers: tuple[str, ...]
    text_columns: int  # left-aligned; the others are figures
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class CellPage:
    """Tables with the notes below them. See `answers.Page`."""

    tables: tuple[Cells, ...]
    notes: tuple[str, ...]

    def show(self) -> None:
        """See `Page.show`."""
        console = terminal()
        for cells in self.tables:
            table = titled(cells.title)
            for index, header in enumerate(cells.headers):
                text = index < cells.text_columns
                table.add_column(header, justify="left" if text else "right", no_wrap=text)
            grouped = len({row[:1] for row in cells.rows}) < len(cells.rows)
            for previous, row in zip((row[:1] for row in ((), *cells.rows)), cells.rows, strict=False):
                if grouped and previous and previous != row[:1]:
                    table.add_section()
                table.add_row(*row)
            console.print(table)
        show_notes(console, self.notes)

    def as_markdown(self) -> str:
        """See `Page.as_markdown`."""
        blocks = []
        for cells in self.tables:
            ruler = ["---" if index < cells.text_columns else "---:" for index in range(len(cells.headers))]
            lines = [_line(cells.headers), _line(ruler), *map(_line, cells.rows)]
            blocks.append("\n".join([f"**{cells.title}**", "", *lines]))
        blocks.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(blocks)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

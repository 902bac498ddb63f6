"""The scores as a table: for a terminal (Rich) and as Markdown. Both show the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.vbench.report import ScoreReport
from benchmarks.vbench.suite import DIMENSIONS

HEADERS = ("subj.", "BG", "motion", "dynamic", "aesth.", "imaging", "v-i subj.", "v-i BG")
TITLE = "VBench image to video, % (Tables I and IV)"
MISSING = "—"
TERMINAL_WIDTH = 160  # columns, where stdout is not a terminal


def show(report: ScoreReport) -> None:
    """Print the table to the terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TERMINAL_WIDTH
    table = Table(title=TITLE, title_justify="left", box=box.SIMPLE)
    for index, header in enumerate(("method", "from", *HEADERS)):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    for cells in _lines(report):
        table.add_row(*cells)
    console.print(table, markup=False)
    for warning in report.warnings:
        console.print(f"! {warning}", markup=False)


def as_markdown(report: ScoreReport) -> str:
    """The table as Markdown, without a heading of the page's own."""
    ruler = ["---", "---", *["---:"] * len(HEADERS)]
    lines = [_line(("method", "from", *HEADERS)), _line(ruler), *map(_line, _lines(report))]
    warnings = [f"- ! {warning}" for warning in report.warnings]
    return "\n".join([f"**{TITLE}**", "", *lines, *([""] if warnings else []), *warnings])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _lines(report: ScoreReport) -> Iterable[tuple[str, ...]]:
    for row in report.rows:
        yield (row.method, row.source, *_figures(row.scores, "{:.2f}"))
        if row.differences:
            yield ("", "run − paper, points", *_figures(row.differences, "{:+.2f}"))


def _figures(values: Mapping[str, float | None], form: str) -> list[str]:
    figures = (values[name] for name in DIMENSIONS)
    return [MISSING if figure is None else form.format(figure) for figure in figures]

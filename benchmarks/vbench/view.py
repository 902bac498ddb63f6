"""The scores as a table: for a terminal (Rich) and as Markdown. Both show the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.answers import terminal, titled
from benchmarks.vbench.report import ScoreReport
from benchmarks.vbench.suite import DIMENSIONS

HEADERS = ("subj.", "BG", "motion", "dynamic", "aesth.", "imaging", "v-i subj.", "v-i BG")
TITLE = "VBench image to video, % (Tables I and IV)"
MISSING = "—"
TERMINAL_WIDTH = 160  # columns, where stdout is not a terminal


@dataclass(frozen=True, kw_only=True)
class ScorePage:
    """The table and the warnings below it. See `answers.Page`."""

    report: ScoreReport

    def show(self) -> None:
        """See `Page.show`."""
        console, table = terminal(TERMINAL_WIDTH), titled(TITLE)
        for index, header in enumerate(("method", "from", *HEADERS)):
            table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
        for cells in _lines(self.report):
            table.add_row(*cells)
        console.print(table, markup=False)
        for warning in self.report.warnings:
            console.print(f"! {warning}", markup=False)

    def as_markdown(self) -> str:
        """See `Page.as_markdown`."""
        ruler = ["---", "---", *["---:"] * len(HEADERS)]
        lines = [_line(("method", "from", *HEADERS)), _line(ruler), *map(_line, _lines(self.report))]
        warnings = [f"- ! {warning}" for warning in self.report.warnings]
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

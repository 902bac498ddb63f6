"""Tables II and III of the VCUT paper, counted: what folding and cutting save, beside the paper's own figures.

    python -m benchmarks.tables [--markdown] [--json] [--plot PATH]

MACs are counted as the paper does (thop: convolutions and linear layers) and with the attention's matmuls. Everything
happens on meta tensors: no weights, no GPU, seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.answers import tell
from benchmarks.options import LastLineOption, MarkdownOption
from benchmarks.plotting import check_usable
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.streams import run


def main(
    markdown: MarkdownOption = False,
    json_line: LastLineOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also draw cost against c into this file (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Count MACs and parameters of the stock and the folded UNets: Tables II and III of the VCUT paper."""
    from benchmarks import tables_plot, tables_report, tables_view  # torch takes seconds: not for --help

    with reporting(debug=False):
        if plot is not None:
            check_usable(plot)
        report = tables_report.build_report(ConsoleProgress())
        if plot is not None:
            tables_plot.draw(report, plot)
        tell(tables_view.page(report), tables_report.as_json(report), markdown=markdown, json_line=json_line)


if __name__ == "__main__":
    run(lambda: typer.run(main))

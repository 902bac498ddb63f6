"""An ESTIMATE of the latency on cards that were not at hand: counted work, data sheets and one fitted factor.

    python -m benchmarks.roofline [--markdown] [--json] [--plot PATH]

Prints how far it is off wherever somebody has published a figure. Everything happens on meta tensors: no weights, no
GPU, seconds.
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
        Path | None, typer.Option(metavar="PATH", help="Also draw seconds per card into this file (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Estimate the latency of stock SVD and of VCUT on NVIDIA's data-centre cards; nothing is measured."""
    from benchmarks.roofline import plot as drawing  # torch takes seconds: not for --help
    from benchmarks.roofline import report as reports
    from benchmarks.roofline import view

    with reporting(debug=False):
        if plot is not None:
            check_usable(plot)
        report = reports.build_report(reports.count_models(ConsoleProgress()))
        if plot is not None:
            drawing.draw(report, plot)
        tell(view.page(report), reports.as_json(report), markdown=markdown, json_line=json_line)


if __name__ == "__main__":
    run(lambda: typer.run(main))

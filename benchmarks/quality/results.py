"""The three files of the quality benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.quality import plot
from benchmarks.quality.measure import Examples
from benchmarks.quality.report import Report, as_json
from benchmarks.quality.sheet import contact_sheet
from benchmarks.writing import write_errors_told

FIGURES, CURVE, SHEET = "quality.json", "quality.png", "quality_sheet.png"


def write(report: Report, examples: Examples, folder: Path, *, tile_width: int) -> None:
    """Write the figures, the curve and the contact sheet into `folder`.

    Raises:
        VcutError: A file cannot be written.
    """
    with write_errors_told(folder):
        (folder / FIGURES).write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
        plot.draw(report, folder / CURVE)
        contact_sheet(report, examples, tile_width=tile_width).save(folder / SHEET, optimize=True)

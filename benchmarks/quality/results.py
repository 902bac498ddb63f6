"""The three files of the quality benchmark: made in a folder beside their place, moved when all are whole."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.quality import plot
from benchmarks.quality.measure import Examples
from benchmarks.quality.report import Report, as_json
from benchmarks.quality.sheet import contact_sheet
from vcut_trt.errors import ConfigError, VcutError

FIGURES, CURVE, SHEET = "quality.json", "quality.png", "quality_sheet.png"


def make_folder(output: Path) -> None:
    """Make the folder of the results, before any video is made.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output is {output}, which cannot be a folder: {error}") from error


def write(report: Report, examples: Examples, output: Path, *, tile_width: int) -> None:
    """Write the figures, the curve and the contact sheet into `output`.

    Raises:
        VcutError: A file cannot be written.
    """
    try:
        with TemporaryDirectory(dir=output, prefix=".quality.") as name:
            folder = Path(name)
            (folder / FIGURES).write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
            plot.draw(report, folder / CURVE)
            contact_sheet(report, examples, tile_width=tile_width).save(folder / SHEET, optimize=True)
            for file in (FIGURES, CURVE, SHEET):
                (folder / file).replace(output / file)
    except OSError as error:
        raise VcutError(f"cannot write into {output}: {error}") from error

"""The files of the conditioning benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from benchmarks.conditioning.measure import Panels
from benchmarks.conditioning.report import FIGURES, SHEET, Report, as_json, numbered
from benchmarks.quality.sheet import picture
from benchmarks.writing import write_errors_told
from vcut_trt.runtime.video import write_mp4

FPS = 7  # the pipeline's default, which the UNet is told


def write_videos(panels: Panels, folder: Path, image: int, images: int) -> None:
    """Write image `image`'s videos, counted from 0.

    Raises:
        VideoError: A video cannot be written.
    """
    for variant, clip in panels.items():
        frames = [picture(frame) for frame in clip.frames]
        write_mp4(frames, folder / numbered(f"{variant.value}.mp4", image, images), FPS)


def write_sheet(sheet: Image.Image, folder: Path, image: int, images: int) -> None:
    """Write image `image`'s contact sheet, counted from 0.

    Raises:
        VcutError: It cannot be written.
    """
    with write_errors_told(folder):
        sheet.save(folder / numbered(SHEET, image, images), optimize=True)


def write_figures(report: Report, folder: Path) -> None:
    """Write the figures.

    Raises:
        VcutError: They cannot be written.
    """
    with write_errors_told(folder):
        (folder / FIGURES).write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")

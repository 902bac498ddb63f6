"""The files of the conditioning benchmark: made in a folder beside their place, moved when all are whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from benchmarks.conditioning.measure import Panels
from benchmarks.conditioning.report import FIGURES, SHEET, Report, as_json, numbered
from benchmarks.quality.sheet import picture
from vcut_trt.errors import ConfigError, VcutError
from vcut_trt.runtime.video import write_mp4

FPS = 7  # the pipeline's default, which the UNet is told


@contextmanager
def whole_or_nothing(output: Path) -> Iterator[Path]:
    """A folder for the results; what lies in it is moved to `output` at the end, and lost if the work fails.

    Raises:
        ConfigError: `output` cannot be a folder.
        VcutError: The results cannot be moved there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        staging = TemporaryDirectory(dir=output, prefix=".conditioning.")
    except OSError as error:
        raise ConfigError(f"--output is {output}, which cannot be a folder: {error}") from error
    with staging as name:
        yield Path(name)
        with _told(output):
            for file in sorted(Path(name).iterdir()):
                file.replace(output / file.name)


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
    with _told(folder):
        sheet.save(folder / numbered(SHEET, image, images), optimize=True)


def write_figures(report: Report, folder: Path) -> None:
    """Write the figures.

    Raises:
        VcutError: They cannot be written.
    """
    with _told(folder):
        (folder / FIGURES).write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VcutError(f"cannot write into {folder}: {error}") from error

"""The files of the conditioning benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conditioning.measure import Panels
from benchmarks.conditioning.report import FIGURES, SHEET, ConditioningConfig, Report, as_json, numbered
from benchmarks.conditioning.sheet import contact_sheet
from benchmarks.quality.sheet import picture
from benchmarks.subject import Subject
from benchmarks.writing import write_errors_told
from vcut_trt.runtime.video import write_mp4
from vcut_trt.spec.clip import ClipSettings

FPS = ClipSettings.fps  # the pipeline's default too, which the UNet is told


@dataclass(frozen=True, kw_only=True)
class ImageWriter:
    """Writes what is made of each image into `folder`."""

    folder: Path
    images: int
    config: ConditioningConfig
    subject: Subject
    tile_width: int  # pixels

    def __call__(self, image: int, panels: Panels) -> None:
        """Write image `image`'s videos and contact sheet, counted from 0.

        Raises:
            VideoError: A video cannot be written.
            VcutError: The sheet cannot be written.
        """
        for variant, clip in panels.items():
            frames = [picture(frame) for frame in clip.frames]
            write_mp4(frames, self._path(f"{variant.value}.mp4", image), FPS)
        sheet = contact_sheet(panels, self.config, self.subject, tile_width=self.tile_width)
        with write_errors_told(self.folder):
            sheet.save(self._path(SHEET, image), optimize=True)

    def _path(self, name: str, image: int) -> Path:
        return self.folder / numbered(name, image, self.images)


def write_figures(report: Report, folder: Path) -> None:
    """Write the figures.

    Raises:
        VcutError: They cannot be written.
    """
    with write_errors_told(folder):
        (folder / FIGURES).write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")

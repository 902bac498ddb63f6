"""From the command line of the quality benchmark to what it measures: sizes, cut steps, a device, pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.subject import Subject
from examples.miniature.world import draw_clip, evaluation_seed, to_image
from vcut_trt.checkpoints.tiny import NAME as TINY
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.image import fit_image, load_image
from vcut_trt.spec.clip import Fit
from vcut_trt.spec.video import VideoSpec

DRAWN_IMAGES = 2


def parse_cuts(text: str) -> tuple[int, ...]:
    """`1,9,26` → (1, 9, 26).

    Raises:
        ConfigError: Something between the commas is no whole number.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--cuts is {text!r}; it takes whole numbers with commas between them: 1,9,17,26") from None


def pictures(folder: Path | None, video: VideoSpec, subject: Subject) -> list[Image.Image]:
    """Every image of a folder, by name, cropped to the video's shape; drawn ones where no folder is given.

    The trained miniature knows its own world alone: it gets pictures of scenes that its training never drew.

    Raises:
        ConfigError: There is no such folder, or nothing is in it.
        ImageError: A file in it is not an image.
    """
    if folder is None and subject == Subject(model=TINY, revision=None, random_weights=False):
        images = [to_image(draw_clip(evaluation_seed(index)).frames[0]) for index in range(DRAWN_IMAGES)]
    elif folder is None:
        images = sample_images(DRAWN_IMAGES)
    elif folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if not files:
            raise ConfigError(f"--images is {folder}, where there is no file")
        images = [load_image(path) for path in files]
    else:
        raise ConfigError(f"--images is {folder}; there is no such folder")
    return [fit_image(image, width=video.width, height=video.height, fit=Fit.CROP) for image in images]

"""From an upload to the picture that is kept of it."""

from __future__ import annotations

import io
from typing import BinaryIO

from vcut_trt.runtime.image import fit_image, read_image
from vcut_trt.spec.clip import Fit

FORMATS = ("JPEG", "PNG", "WEBP")


def fitted_png(content: BinaryIO, *, width: int, height: int, fit: Fit, most_pixels: int) -> bytes:
    """An upload as a PNG of the video's size: small, harmless, and all that the worker ever reads.

    Raises:
        ImageError: As for `read_image`.
    """
    picture = read_image(content, formats=FORMATS, most_pixels=most_pixels)
    png = io.BytesIO()
    fit_image(picture, width=width, height=height, fit=fit).save(png, format="PNG", compress_level=1)
    return png.getvalue()

"""Pictures and a seed for measurements: the same on every run, and no file is read."""

from __future__ import annotations

import numpy as np
from PIL import Image

SEED = 0


def sample_images(count: int) -> list[Image.Image]:
    """Smooth pictures with edges, one for each video; no file is read."""
    rows, columns = np.mgrid[0:240, 0:320] / 320
    pictures = []
    for index in range(count):
        red = 0.5 + 0.5 * np.sin(12 * columns + index)
        green = rows * 320 / 240
        blue = ((columns - 0.5) ** 2 + (rows - 0.4) ** 2 < 0.04 * (index + 1)).astype(float)
        pictures.append(Image.fromarray((255 * np.stack([red, green, blue], axis=-1)).astype(np.uint8)))
    return pictures

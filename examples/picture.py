"""Draw a picture to animate: hills under a sun. `python -m examples.picture picture.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 960, 640


def draw() -> Image.Image:
    """A sky that fades, a sun, three rows of hills."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    fade = (rows / HEIGHT)[..., None]
    picture = (1 - fade) * np.array([70, 120, 200]) + fade * np.array([250, 200, 150])
    sun = (rows - 180) ** 2 + (columns - 680) ** 2 < 70**2
    picture[sun] = (255, 236, 170)
    for row, (height, wave, color) in enumerate(
        ((330, 150, (96, 130, 110)), (430, 210, (60, 100, 80)), (520, 120, (34, 66, 52)))
    ):
        crest = height + 45 * np.sin(columns / wave + 2 * row) + 18 * np.sin(columns / 47 + row)
        picture[rows > crest] = color
    return Image.fromarray(picture.astype(np.uint8))


def main() -> None:
    """Write the picture to the path given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    draw().save(output)


if __name__ == "__main__":
    main()

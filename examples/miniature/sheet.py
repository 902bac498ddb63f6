"""Contact sheets: clips as rows of frames, enlarged."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from examples.miniature.world import to_image

GAP, MARGIN = 2, 150  # pixels between frames; beside the rows, for their names


def lay_out(rows: Sequence[tuple[str, Tensor]], *, enlarged: int = 2) -> Image.Image:
    """A picture of named clips (F, 3, H, W) in [0, 1], a row for each."""
    count, _, height, width = rows[0][1].shape
    tile_width, tile_height = width * enlarged + GAP, height * enlarged + GAP
    sheet = Image.new("RGB", (MARGIN + count * tile_width, len(rows) * tile_height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, frames) in enumerate(rows):
        pen.multiline_text((4, row * tile_height + 8), name, fill="black")
        for column, frame in enumerate(frames):
            tile = to_image(frame).resize((width * enlarged, height * enlarged), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * tile_width, row * tile_height))
    return sheet

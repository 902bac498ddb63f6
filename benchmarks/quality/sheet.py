"""A contact sheet for the eye: frames of stock, of vcut at several cut steps, and their differences.

    difference × k = min(1, k · |vcut − stock|)

k is the largest of 1, 2, 5, 10 … 1000 that leaves all but 1 % of the shown numbers of every cut video below 1. There is
one k for the whole sheet, so that its rows can be compared, and it is written beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.quality.measure import Examples
from benchmarks.quality.report import Report

FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
KEPT = 0.99
MOST_FRAMES = 4
GAP, LABEL_WIDTH, HEADER_HEIGHT = 4, 116, 20  # pixels
RANDOM_WEIGHTS = "random weights: nothing here shows a trained model's quality"
BACKGROUND, INK, WARNING = (255, 255, 255), (51, 51, 51), (194, 87, 26)
FONT, FONT_SIZE = "DejaVu Sans", 12  # matplotlib brings it; Pillow's own has no ×


def shown_frames(count: int) -> list[int]:
    """Up to four of `count` frames, evenly spaced, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(MOST_FRAMES, count))]


def headers(frames: Sequence[int]) -> list[str]:
    """What stands above columns of `frames`, indices in the video, from 0."""
    return [f"frame {frame + 1}" for frame in frames]


def shown_cuts(report: Report) -> list[int]:
    """The first and the last cut step, and between them SSIM's elbow, or the middle one where there is none."""
    cuts = [row.cut_step for row in report.rows]
    return sorted({cuts[0], report.elbows.ssim or cuts[len(cuts) // 2], cuts[-1]})


def amplification(differences: Sequence[Tensor]) -> int:
    """k; 1 where even that cuts more off."""
    largest = max(float(np.quantile(difference.abs().numpy(), KEPT)) for difference in differences)
    return max((factor for factor in FACTORS if factor * largest <= 1), default=1)


def contact_sheet(report: Report, examples: Examples, *, tile_width: int) -> Image.Image:
    """Draw it, with frames of `tile_width` pixels."""
    frames = shown_frames(len(examples.stock))
    stock = examples.stock[frames]
    cut = {_name(report, step): examples.cut[step][frames] for step in shown_cuts(report)}
    factor = amplification([video - stock for video in cut.values()])
    rows = [("stock", stock)]
    for name, video in {**cut, "stock,\nother seed": examples.other_seed[frames]}.items():
        rows.append((name, video))
        rows.append((f"its difference\n× {factor}", (factor * (video - stock).abs()).clamp(max=1)))
    config, subject = report.config, report.subject
    mode, steps = config.cross_attention.value, config.num_inference_steps
    title = f"{subject.model}, {mode}, {steps} steps, seed {config.seeds[0]}"
    warning = RANDOM_WEIGHTS if subject.random_weights else ""
    return lay_out(rows, headers(frames), title=title, warning=warning, tile_width=tile_width)


def _name(report: Report, cut_step: int) -> str:
    return "vcut, uncut" if cut_step == report.uncut else f"vcut, c = {cut_step}"


def lay_out(
    rows: Sequence[tuple[str, Tensor]], headers: Sequence[str], *, title: str, warning: str, tile_width: int
) -> Image.Image:
    """A sheet of named rows, each (len(headers), 3, H, W) in [0, 1]; `headers` stand above the columns."""
    from matplotlib.font_manager import findfont

    height, width = rows[0][1].shape[-2:]
    tile_height = round(tile_width * height / width)
    top = 3 * HEADER_HEIGHT
    size = (LABEL_WIDTH + len(headers) * (tile_width + GAP), top + len(rows) * (tile_height + GAP))
    sheet = Image.new("RGB", size, BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(findfont(FONT), FONT_SIZE)
    pen.text((GAP, GAP), title, INK, font)
    pen.text((GAP, HEADER_HEIGHT), warning, WARNING, font)
    lefts = [LABEL_WIDTH + column * (tile_width + GAP) for column in range(len(headers))]
    for left, header in zip(lefts, headers, strict=True):
        pen.text((left, 2 * HEADER_HEIGHT), header, INK, font)
    for row, (name, tiles) in enumerate(rows):
        y = top + row * (tile_height + GAP)
        pen.text((GAP, y), name, INK, font)
        for left, tile in zip(lefts, tiles, strict=True):
            tile_image = picture(tile).resize((tile_width, tile_height), Image.Resampling.LANCZOS)
            sheet.paste(tile_image, (left, y))
    return sheet


def picture(tile: Tensor) -> Image.Image:
    """A frame (3, H, W) in [0, 1] in 8-bit colour."""
    levels = (255 * tile.clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())

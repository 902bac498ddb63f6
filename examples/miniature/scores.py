"""What a made clip is worth: measured against the ground truth of its scene.

The thing is what differs from the ground by more than 0.15 of the range in some channel. Its place is the centroid of
that; the truth's own frames are measured in the same way. Lengths in pixels, colours in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.miniature.world import GROWTH, PALETTE, Clip, Kind

THRESHOLD = 0.15
LOST_SHARE = 0.1  # of its true area: less is no thing any more
SAME_SHAPE = 0.6  # intersection over union, once laid over each other
SAME_COLOUR = 0.15  # distance in RGB
RIGHT_WAY = 0.5  # share of the true way


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where a thing is, frame by frame."""

    centre: Tensor  # (F, 2): x, y
    area: Tensor  # (F), pixels
    mask: Tensor  # (F, H, W), of booleans


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one clip is worth."""

    position_error_px: tuple[float, ...]  # of each frame
    psnr_db: float  # of all frames but the first, against the truth
    background_psnr_db: float  # of the ground alone: 2 pixels away from the thing, true or made
    speed_px: float  # a frame, from all frames
    speed_ratio: float  # against that of the truth, measured in the same way
    shape_iou: float  # of the last frame's thing and the true one, laid over each other
    colour_distance: float  # between the middle colour of the last frame's thing and the true paint
    shape_kept: bool
    colour_kept: bool
    right_way: bool


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over clips and half the width of its 95 % confidence interval."""

    mean: float
    half_width: float


def follow(frames: Tensor, background: Tensor) -> Track:
    """Find the thing in frames (F, 3, H, W) over a ground (3, H, W)."""
    excess = ((frames - background).abs().amax(dim=1) - THRESHOLD).clamp(0, THRESHOLD) / THRESHOLD
    area = excess.sum(dim=(1, 2))
    height, width = excess.shape[1:]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    found = area.clamp(min=1e-6)
    centre = torch.stack([(excess * x).sum(dim=(1, 2)), (excess * y[:, None]).sum(dim=(1, 2))], dim=1) / found[:, None]
    return Track(centre=centre, area=area, mask=excess > 0.5)


def score(clip: Clip, made: Tensor) -> Score:
    """Measure `made` (F, 3, H, W) in [0, 1] against the clip that it should be."""
    true, found = follow(clip.frames, clip.background), follow(made, clip.background)
    height, width = made.shape[-2:]
    lost = found.area < LOST_SHARE * true.area
    centre = torch.where(lost[:, None], torch.tensor([width / 2, height / 2]), found.centre)
    true_speed, speed = _speed(clip, true.centre, true.area), _speed(clip, centre, found.area)
    iou = _laid_over(true.mask[-1], found.mask[-1], (true.centre - centre)[-1])
    colour, distance = _colour(clip, made[-1], found.mask[-1])
    away = ~_widened(true.mask | found.mask, 2)
    ratio = speed / true_speed
    return Score(
        position_error_px=tuple(round(float(error), 3) for error in (true.centre - centre).norm(dim=1)),
        psnr_db=_psnr(clip.frames[1:], made[1:]),
        background_psnr_db=_psnr(clip.background.expand_as(made), made, away[:, None].expand_as(made)),
        speed_px=speed,
        speed_ratio=ratio,
        shape_iou=iou,
        colour_distance=distance,
        shape_kept=iou >= SAME_SHAPE and not bool(lost[-1]),
        colour_kept=colour == clip.scene.colour and distance <= SAME_COLOUR,
        right_way=ratio >= RIGHT_WAY and _aside(clip, centre) <= RIGHT_WAY * true_speed * (len(made) - 1),
    )


def interval(values: Sequence[float]) -> Interval:
    """The mean of measured values and its 95 % interval, by the normal approximation."""
    numbers = torch.tensor(values, dtype=torch.float64)
    spread = float(numbers.std()) if len(values) > 1 else math.inf
    return Interval(mean=float(numbers.mean()), half_width=1.96 * spread / math.sqrt(len(values)))


FIGURES: dict[str, Callable[[Score], float]] = {
    "position_error_px": lambda s: sum(s.position_error_px[1:]) / (len(s.position_error_px) - 1),
    "last_position_error_px": lambda s: s.position_error_px[-1],
    "psnr_db": lambda s: s.psnr_db,
    "background_psnr_db": lambda s: s.background_psnr_db,
    "speed_ratio": lambda s: s.speed_ratio,
    "shape_iou": lambda s: s.shape_iou,
    "colour_distance": lambda s: s.colour_distance,
    "shape_kept": lambda s: float(s.shape_kept),
    "colour_kept": lambda s: float(s.colour_kept),
    "right_way": lambda s: float(s.right_way),
}
"""What is reported over many clips: shares for what is kept."""


def summary(scores: Sequence[Score]) -> dict[str, Interval]:
    """Every figure over the clips."""
    return {name: interval([figure(each) for each in scores]) for name, figure in FIGURES.items()}


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's, of two rows of numbers."""
    return float(torch.corrcoef(torch.tensor([[*first], [*second]], dtype=torch.float64))[0, 1])


def _speed(clip: Clip, centre: Tensor, area: Tensor) -> float:
    """Pixels a frame: the slope of the way along the heading, of a ball that of its radius in the law's units."""
    if clip.scene.kind is Kind.BALL:
        way = (area / math.pi).sqrt() / GROWTH
    else:
        way = centre @ torch.tensor(clip.scene.kind.value, dtype=centre.dtype)
    time = torch.arange(len(way)) - (len(way) - 1) / 2
    return float((time * way).sum() / time.square().sum())


def _aside(clip: Clip, centre: Tensor) -> float:
    """How far the thing has gone across its heading: pixels."""
    right, down = clip.scene.kind.value
    gone = centre[-1] - centre[0]
    if clip.scene.kind is Kind.BALL:
        return float(gone.norm())
    return abs(float(gone[0] * down - gone[1] * right))


def _laid_over(true: Tensor, found: Tensor, shift: Tensor) -> float:
    """Intersection over union of two masks once the second is moved by (x, y) = `shift`, to whole pixels."""
    right, down = (round(float(value)) for value in shift)
    moved = torch.roll(found, (down, right), dims=(0, 1))
    return float((true & moved).sum() / (true | moved).sum().clamp(min=1))


def _colour(clip: Clip, frame: Tensor, mask: Tensor) -> tuple[str, float]:
    """The name of the palette's colour nearest to that of the thing, and the distance from the true paint."""
    if not mask.any():
        return "", math.sqrt(3)
    middle = frame[:, mask].median(dim=1).values
    distances = {name: float((middle - torch.tensor(paint)).norm()) for name, paint in PALETTE.items()}
    return min(distances, key=lambda name: distances[name]), float((middle - torch.tensor(clip.scene.paint)).norm())


def _widened(mask: Tensor, pixels: int) -> Tensor:
    size = 2 * pixels + 1
    return torch.nn.functional.max_pool2d(mask.float()[:, None], size, stride=1, padding=pixels)[:, 0] > 0


def _psnr(true: Tensor, made: Tensor, where: Tensor | None = None) -> float:
    squares = (true - made).square()
    error = float(squares.mean() if where is None else squares[where].mean())
    return -10 * math.log10(max(error, 1e-12))

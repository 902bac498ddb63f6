"""The earliest cut that a user's own images allow, by bisection.

    q(c) = min over images, seeds and videos of  mean over frames of  metric(video cut at c, the same video uncut)
    c*   = min { c : q(c) ≥ bound },   c = 1 … N + 1,   q(N + 1) = ∞: the uncut video is itself

Precondition: q does not fall as c grows. Then c* takes at most ⌈log₂(N + 1)⌉ points instead of N; both neighbours of c*
are looked at as well. The result always holds the bound, the cut before it never does; but if q turns out not to be
monotone at the points seen, a still earlier cut may hold it too, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from vcut_trt.errors import ConfigError
from vcut_trt.measure.quality import Metric, check_installed, frame_quality
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.work.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vcut_trt.runtime.pipeline import VCutPipeline


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What a cut must hold, and what it is tried on.

    Raises:
        ConfigError: The bound is none that the metric can reach, or there is no step or no seed.
    """

    metric: Metric
    at_least: float  # the bound on the metric: dB for PSNR, up to 1 for SSIM
    num_inference_steps: int
    grid: Grid = Grid.KARRAS
    seeds: tuple[int, ...]  # a video is made from each image with each

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_least) or self.at_least <= 0:
            raise ConfigError(f"the bound is {self.at_least}; it must be a positive number{self.metric.unit}")
        if self.metric is Metric.SSIM and self.at_least > 1:
            raise ConfigError(f"the bound is {self.at_least}; SSIM is at most 1: try 0.9")
        if not self.seeds:
            raise ConfigError("there is no seed; at least one is needed")
        CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=self.uncut)

    @property
    def uncut(self) -> int:
        """The cut step that never comes."""
        return self.num_inference_steps + 1


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The quality of one cut step over all images and seeds, each video's figure being the mean of its frames'."""

    cut_step: int
    worst: float  # decides
    mean: float


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """The chosen cut step and what was seen on the way."""

    cut_step: int  # N + 1: no cut holds the bound
    num_inference_steps: int
    points: tuple[CurvePoint, ...]  # by cut step; the uncut video, which equals itself, is not among them

    @property
    def monotone(self) -> bool:
        """Whether the quality never falls from one point seen to the next: what the bisection relies on."""
        return all(earlier.worst <= later.worst for earlier, later in pairwise(self.points))

    @property
    def saved_passes(self) -> float:
        """The share of the uncut video's UNet passes that the cut leaves out, 0 … ½."""
        steps = self.num_inference_steps
        return 1 - CutSchedule(num_inference_steps=steps, cut_step=self.cut_step).unet_passes / (2 * steps)


def tune(
    pipeline: VCutPipeline, images: Sequence[Image.Image], config: TuneConfig, progress: Progress = SILENT
) -> TuneResult:
    """Find the smallest cut step whose worst video stays within the bound of the same pipeline's uncut one.

    Args:
        pipeline: What makes the videos; with V videos a call, V of each image and seed.
        images: Already of the video's shape, or they are stretched.
        config: The bound, the steps and the seeds.
        progress: Told of each cut step tried.

    Raises:
        ConfigError: There is no image, or torchmetrics is not installed.
        QualityError: A video cannot be judged.
    """
    check_installed()
    if not images:
        raise ConfigError("there is no image to tune on; at least one is needed")
    samples = [(image, seed) for image in images for seed in config.seeds]
    with progress.stage(f"uncut, {len(samples)} × {config.num_inference_steps} steps") as advance:
        uncut = []
        for done, (image, seed) in enumerate(samples, start=1):
            uncut.append(_videos(pipeline, image, seed, config, config.uncut))
            advance(done, len(samples))
    points: dict[int, CurvePoint] = {}

    def quality(cut_step: int) -> float:
        if cut_step not in points:
            with progress.stage(f"cut at step {cut_step}") as advance:
                figures: list[float] = []
                for done, ((image, seed), reference) in enumerate(zip(samples, uncut, strict=True), start=1):
                    figures += _figures(_videos(pipeline, image, seed, config, cut_step), reference, config.metric)
                    advance(done, len(samples))
            points[cut_step] = CurvePoint(cut_step=cut_step, worst=min(figures), mean=fmean(figures))
        return points[cut_step].worst

    cut_step = smallest_cut(quality, at_least=config.at_least, uncut=config.uncut)
    for neighbour in (cut_step - 1, cut_step + 1):
        if 1 <= neighbour < config.uncut:
            quality(neighbour)
    return TuneResult(
        cut_step=cut_step,
        num_inference_steps=config.num_inference_steps,
        points=tuple(points[step] for step in sorted(points)),
    )


def smallest_cut(quality: Callable[[int], float], *, at_least: float, uncut: int) -> int:
    """The smallest c in 1 … `uncut` with quality(c) ≥ `at_least`, where `quality` does not fall; `uncut` always holds.

    Two invariants: `high` holds; `low` is 1, or low − 1 was tried and failed. It ends with c = low = high.
    """
    low, high = 1, uncut
    while low < high:
        middle = (low + high) // 2
        if quality(middle) >= at_least:
            high = middle
        else:
            low = middle + 1
    return high


def _videos(pipeline: VCutPipeline, image: Image.Image, seed: int, config: TuneConfig, cut_step: int) -> Tensor:
    """(V, F, 3, H, W) in [0, 1], fp32, on the CPU: the same noise for every cut step."""
    import torch

    sigmas = config.grid.sigmas(config.num_inference_steps)
    frames = pipeline(
        image,
        num_inference_steps=config.num_inference_steps,
        sigmas=None if sigmas is None else list(sigmas),
        num_videos_per_prompt=pipeline.video.videos,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        return_dict=False,
        cut_step=cut_step,
    )
    assert isinstance(frames, torch.Tensor)
    return frames.float().cpu()


def _figures(came: Tensor, reference: Tensor, metric: Metric) -> list[float]:
    """The metric of each of V videos: the mean of its frames'."""
    return [float(frame_quality(metric, one, other).mean()) for one, other in zip(came, reference, strict=True)]

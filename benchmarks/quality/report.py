"""What the quality benchmark compares, and the figures that come of it.

    sample        one image and one seed: a video of each kind, from the same noise
    latent error  ‖came − stock‖ / ‖stock‖ of a frame's final latents
    a figure      per frame: the mean over samples; of a video: the mean over its frames
    mean, spread  over samples: their mean and their standard deviation (n − 1); worst: the farthest from stock

The yardstick is stock against stock with another seed: how far apart two videos are that are equally good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.quality.elbow import elbow
from benchmarks.subject import Subject
from vcut_trt.errors import ConfigError
from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.video import VideoSpec

LIBRARIES = (*MODEL_LIBRARIES, "torchmetrics")
RANDOM_WEIGHTS = "random weights: these figures say nothing about the quality of a trained model"
SMALLEST_SEEDS = 2  # one video and its yardstick


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """One comparison.

    Raises:
        ConfigError: A cut step is out of range or comes twice, or there are too few seeds.
    """

    video: VideoSpec
    precision: Precision  # of both sides
    cross_attention: CrossAttention
    num_inference_steps: int
    cut_steps: tuple[int, ...]
    seeds: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        if not self.cut_steps:
            raise ConfigError("there is no cut step to compare; name some, like 1,9,17,26")
        for cut_step in self.cut_steps:
            CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=cut_step)
        if len(set(self.cut_steps)) < len(self.cut_steps):
            raise ConfigError(f"a cut step comes twice in {', '.join(map(str, self.cut_steps))}")
        if len(set(self.seeds)) < max(len(self.seeds), SMALLEST_SEEDS):
            raise ConfigError(
                f"{len(self.seeds)} seed(s), {len(set(self.seeds))} of them different; at least {SMALLEST_SEEDS} "
                "different ones are needed: two stock videos with different noise are the yardstick"
            )
        if self.video.videos != 1:
            raise ConfigError(f"videos is {self.video.videos}; the comparison makes one video at a time")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric of one kind of video."""

    mean: float
    spread: float  # 0 with a single sample
    worst: float
    per_frame: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far a kind of video is from stock."""

    latent_error: Figure
    psnr_db: Figure
    ssim: Figure
    lpips: Figure | None  # None: not at hand


@dataclass(frozen=True, kw_only=True)
class CutRow:
    """vcut, cut at one step, against stock with the same noise."""

    cut_step: int  # N + 1 = never cut
    unet_passes: int
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Elbows:
    """Where a later cut begins to gain little; None: nowhere. PSNR has none: its end, uncut, is rounding in `exact`."""

    ssim: int | None
    latent_error: int | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of one model."""

    subject: Subject
    config: QualityConfig
    images: int
    rows: tuple[CutRow, ...]  # by cut step
    yardstick: Figures
    lpips_note: str  # why LPIPS is missing; empty if it is not

    @property
    def elbows(self) -> Elbows:
        """The elbows of the means over the measured cut steps. See `benchmarks.quality.elbow`."""
        return Elbows(
            ssim=elbow({row.cut_step: row.figures.ssim.mean for row in self.rows}),
            latent_error=elbow({row.cut_step: row.figures.latent_error.mean for row in self.rows}),
        )

    @property
    def uncut(self) -> int:
        """The cut step that never comes."""
        return self.config.num_inference_steps + 1


def summarize(samples: Sequence[Sequence[float]], *, best: float) -> Figure:
    """The figure of one metric, from its value for each frame of each sample; `best` is that of equal videos."""
    videos = [fmean(frames) for frames in samples]
    return Figure(
        mean=fmean(videos),
        spread=stdev(videos) if len(videos) > 1 else 0.0,
        worst=max(videos, key=lambda value: abs(value - best)),
        per_frame=tuple(fmean(values) for values in zip(*samples, strict=True)),
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with what it was measured for and by."""
    config = report.config
    return {
        "benchmark": "quality",
        **report.subject.as_json(RANDOM_WEIGHTS),
        "video": asdict(config.video),
        "steps": config.num_inference_steps,
        "precision": config.precision.value,
        "cross_attention": config.cross_attention.value,
        "images": report.images,
        "seeds": list(config.seeds),
        "device": str(config.device),
        "versions": installed_versions(LIBRARIES),
        "rows": [asdict(row) for row in report.rows],
        "yardstick": asdict(report.yardstick),
        "elbows": asdict(report.elbows),
        **({"lpips": report.lpips_note} if report.lpips_note else {}),
    }

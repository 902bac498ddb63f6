"""What the conditioning benchmark makes, and the figures that come of it.

latent error  ‖came − all‖ / ‖all‖ of a frame's final latents
a figure      per frame: the mean over images; of a video: the mean over its frames
mean, spread  over images: their mean and their standard deviation (n − 1); worst: the farthest from `all`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.conditioning.variants import Variant
from benchmarks.quality.report import LIBRARIES, Figure
from benchmarks.subject import Subject
from vcut_trt.errors import ConfigError
from vcut_trt.measure.versions import installed_versions
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.clip import check_seed
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

RANDOM_WEIGHTS = "random weights: these figures say nothing about the paper's claim, which is about trained models"

FIGURES, SHEET = "conditioning.json", "conditioning.png"


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """One ablation.

    Raises:
        ConfigError: The boundary or the seed is out of range, or there is no step.
    """

    video: VideoSpec
    precision: Precision
    cross_attention: CrossAttention
    num_inference_steps: int
    boundary: int  # b, the first step of quality improvement; num_inference_steps + 1 = there is none
    chosen: tuple[Variant, ...]  # in any order; `all` is made too, because the others are compared with it
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        steps = self.num_inference_steps
        if steps < 1:
            raise ConfigError(f"num_inference_steps is {steps}; it must be at least 1")
        if not 1 <= self.boundary <= steps + 1:
            raise ConfigError(
                f"boundary is {self.boundary}; with {steps} steps it must lie in 1 … {steps + 1}: the first step of "
                f"quality improvement ({steps + 1} = every step is semantic binding)"
            )
        check_seed(self.seed)
        if self.video.videos != 1:
            raise ConfigError(f"videos is {self.video.videos}; the ablation makes one video at a time")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """What is made, in the order of the figure, `all` first."""
        return tuple(variant for variant in Variant if variant in (Variant.ALL, *self.chosen))

    def steps(self, variant: Variant) -> range:
        """The steps at which `variant` applies the embedding, counted from 1."""
        return variant.steps(self.boundary, self.num_inference_steps)

    def steps_text(self, variant: Variant) -> str:
        """`steps 1 … 16`, `step 1`, or `no step`."""
        steps = self.steps(variant)
        if not steps:
            return "no step"
        return f"steps {steps[0]} … {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant against `all`, from the same noise."""

    variant: Variant
    figures: Mapping[str, Figure]  # latent_error, psnr_db, ssim


@dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of one model."""

    subject: Subject
    config: ConditioningConfig
    images: int
    rows: tuple[Row, ...]  # in the order of the variants, without `all`


def numbered(name: str, image: int, images: int) -> str:
    """The name of a file of image `image`, counted from 0: `all.mp4`, or `all-1.mp4`, `all-2.mp4` … of several."""
    stem, _, suffix = name.rpartition(".")
    return name if images == 1 else f"{stem}-{image + 1}.{suffix}"


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with what it was measured for and by."""
    config = report.config
    return {
        "benchmark": "conditioning",
        **report.subject.as_json(RANDOM_WEIGHTS),
        "video": asdict(config.video),
        "steps": config.num_inference_steps,
        "boundary": config.boundary,
        "precision": config.precision.value,
        "cross_attention": config.cross_attention.value,
        "images": report.images,
        "seed": config.seed,
        "device": str(config.device),
        "versions": installed_versions(LIBRARIES),
        "applied_at": {variant.value: list(config.steps(variant)) for variant in config.variants},
        "reference": Variant.ALL.value,
        "rows": [
            {"variant": row.variant.value, "figures": {name: asdict(figure) for name, figure in row.figures.items()}}
            for row in report.rows
        ],
        "files": [
            {
                "sheet": numbered(SHEET, image, report.images),
                "videos": {v.value: numbered(f"{v.value}.mp4", image, report.images) for v in config.variants},
            }
            for image in range(report.images)
        ],
    }

"""A clip's settings: what decides it, beside its picture and its bundle."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Integral
from typing import Any

from pydantic import TypeAdapter

from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import chosen
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule


class Fit(str, Enum):
    """How a picture of another shape fills the video's."""

    CROP = "crop"  # scaled to cover it, the overhang cut off on both sides
    STRETCH = "stretch"  # distorted, as diffusers' pipeline does it


LARGEST_FPS = 240


def check_fps(fps: int) -> None:
    """Refuse a frame rate that no player shows.

    Raises:
        ConfigError: It lies outside 1 … 240, or is no whole number.
    """
    if not isinstance(fps, Integral) or not 1 <= fps <= LARGEST_FPS:
        raise ConfigError(f"fps is {fps}; it must lie in 1 … {LARGEST_FPS} and be a whole number")


@dataclass(frozen=True, kw_only=True)
class MicroConditions:
    """SVD's numbers beside the image. Source: diffusers' StableVideoDiffusionPipeline.

    Raises:
        ConfigError: A number is out of range.
    """

    fps: int  # frames a second of the video; the UNet is told fps − 1, as it was in training
    motion_bucket_id: int  # 0 … 255: how much moves
    noise_aug_strength: float  # standard deviation of the noise added to the image

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise ConfigError(f"fps is {self.fps}; it must be at least 1")
        if self.motion_bucket_id < 0:
            raise ConfigError(f"motion_bucket_id is {self.motion_bucket_id}; it must not be negative")
        if not 0 <= self.noise_aug_strength < float("inf"):
            raise ConfigError(f"noise_aug_strength is {self.noise_aug_strength}; it must be a finite number from 0")


SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1  # what torch takes; −1 is the seed 2⁶⁴ − 1 there
MOST_STEPS = 1000  # of the scheduler's training; more would repeat timesteps


def check_seed(seed: int) -> None:
    """Refuse a seed that torch's generators do not take.

    Raises:
        ConfigError: It lies outside −2⁶³ … 2⁶⁴ − 1.
    """
    if not SMALLEST_SEED <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed is {seed}; it must lie in {SMALLEST_SEED} … {LARGEST_SEED}")


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """What decides a clip, beside its picture and its bundle. The defaults are `vcut generate`'s.

    Raises:
        ConfigError: A number is out of range.
    """

    num_inference_steps: int
    cut_step: int  # 1 … num_inference_steps + 1 (= never)
    seed: int = 0
    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    fit: Fit = Fit.CROP
    grid: Grid = Grid.KARRAS

    def __post_init__(self) -> None:
        if self.num_inference_steps > MOST_STEPS:
            raise ConfigError(f"num_inference_steps is {self.num_inference_steps}; at most {MOST_STEPS} make sense")
        check_seed(self.seed)
        check_fps(self.fps)
        MicroConditions(
            fps=self.fps, motion_bucket_id=self.motion_bucket_id, noise_aug_strength=self.noise_aug_strength
        )
        if not (math.isfinite(self.min_guidance_scale) and math.isfinite(self.max_guidance_scale)):
            raise ConfigError("the guidance scales must be finite numbers")
        if self.max_guidance_scale <= 1 < self.min_guidance_scale:
            raise ConfigError(
                f"min_guidance_scale is {self.min_guidance_scale}, above max_guidance_scale, {self.max_guidance_scale}"
            )
        assert self.schedule  # raises on its own behalf

    @classmethod
    def of(cls, asked: Mapping[str, Any], *, reference_cut_step: int) -> ClipSettings:
        """The settings of a request: what it asks for, and for the rest the defaults.

        Args:
            asked: Values by the names of the fields; None is as good as not asked for. Without a cut step it is the
                bundle's, scaled to the steps; without a seed one is drawn.
            reference_cut_step: The bundle's cut step, of 25 steps.

        Raises:
            ConfigError: A value is out of range, or not a way to fit or a grid.
        """
        values = {name: value for name, value in asked.items() if value is not None}
        schedule = CutSchedule.chosen(
            num_inference_steps=values.setdefault("num_inference_steps", REFERENCE_STEPS),
            cut_step=values.get("cut_step"),
            reference_cut_step=reference_cut_step,
        )
        values["cut_step"] = schedule.cut_step
        values.setdefault("seed", draw_seed())
        values["fit"] = chosen(Fit, "fit", values.get("fit", cls.fit))
        values["grid"] = chosen(Grid, "grid", values.get("grid", cls.grid))
        return cls(**values)

    @property
    def sigmas(self) -> list[float] | None:
        """Where the steps stand, the last one (0) included; None: where the scheduler puts them."""
        sigmas = self.grid.sigmas(self.num_inference_steps)
        return None if sigmas is None else list(sigmas)

    @property
    def schedule(self) -> CutSchedule:
        """Which stage each step belongs to."""
        return CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=self.cut_step)


CLIP_SETTINGS = TypeAdapter(ClipSettings)
"""To and from JSON."""


def draw_seed() -> int:
    """A seed for a clip whose maker does not care; small enough for JSON's numbers in every language."""
    return random.SystemRandom().randrange(2**32)

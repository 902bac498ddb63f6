"""One call of the pipeline: what its arguments stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcut_trt.runtime.callbacks import AfterStep
from vcut_trt.spec.clip import MicroConditions
from vcut_trt.spec.step_plan import StepPlan
from vcut_trt.spec.video import VideoSpec

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler

Generators = torch.Generator | list[torch.Generator] | None
"""What draws the random numbers: torch's own generator, one for all videos, or one for each."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call's arguments stand for."""

    video: VideoSpec
    conditions: MicroConditions
    scheduler: EulerDiscreteScheduler  # the call's own, its steps set
    plan: StepPlan
    scales: Tensor  # of guidance, (F), fp32: what was asked for
    guidance: Tensor | None  # the same on the device; None: nothing is guided
    after_step: AfterStep
    videos_per_image: int
    generator: Generators

    @property
    def guidance_scale(self) -> Tensor:
        """(V, F, 1, 1, 1), as diffusers has it in its loop."""
        return self.scales.repeat(self.video.videos, 1)[..., None, None, None]

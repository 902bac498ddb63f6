"""One call of the pipeline: what its arguments stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcut_trt.runtime.callbacks import AfterStep
from vcut_trt.spec.clip import MicroConditions
from vcut_trt.spec.schedule import CutSchedule

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler

Generators = torch.Generator | list[torch.Generator] | None
"""What draws the random numbers: torch's own generator, one for all videos, or one for each."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call's arguments stand for."""

    conditions: MicroConditions
    scheduler: EulerDiscreteScheduler
    schedule: CutSchedule
    guidance: Tensor | None  # (F), fp32; None: nothing is guided
    after_step: AfterStep
    videos_per_image: int
    generator: Generators

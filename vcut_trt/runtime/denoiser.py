"""Denoisers: one step of the denoising loop, `(latents, step) → latents`. Steps count from 1.

The loop never learns about cuts: `CutDenoiser` holds two denoisers and is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from vcut_trt.engines.base import Engine
from vcut_trt.runtime.ranges import annotate
from vcut_trt.schedule import CutSchedule, Stage


class Denoiser(Protocol):
    """One step of the loop."""

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Latents (V, F, 4, h, w), fp32, before step `step` → after it."""


class EngineDenoiser:
    """Runs every step on one UNet engine.

    Args:
        engine: `unet_cfg` or `unet_single`.
        constants: The inputs that stay the same for the whole video.
        sigmas: (N + 1,) fp32 on the engine's device; the scheduler's, the last one included.
    """

    def __init__(self, engine: Engine, constants: Mapping[str, Tensor], sigmas: Tensor) -> None:
        self._engine = engine
        self._constants = dict(constants)
        self._sigmas = sigmas.unbind()

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Run one step."""
        outputs = self._engine(
            latents=latents, sigma=self._sigmas[step - 1], sigma_next=self._sigmas[step], **self._constants
        )
        return outputs["next_latents"]


class CutDenoiser:
    """Hands each step to the denoiser of its stage."""

    def __init__(self, *, binding: Denoiser, improvement: Denoiser, schedule: CutSchedule) -> None:
        self._by_stage = {Stage.SEMANTIC_BINDING: binding, Stage.QUALITY_IMPROVEMENT: improvement}
        self._schedule = schedule

    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Run one step in the stage that it belongs to."""
        stage = self._schedule.stage(step)
        with annotate(f"step {step}: {stage.value}"):
            return self._by_stage[stage](latents, step)

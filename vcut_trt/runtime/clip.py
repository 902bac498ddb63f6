"""A clip's settings, and the one way in which commands and servers make it: the same settings make the same bytes."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from vcut_trt.runtime.callbacks import StepCallback
from vcut_trt.runtime.image import fit_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.plans import plan_of_settings
from vcut_trt.runtime.step_report import OnStep, StepReport
from vcut_trt.spec.clip import ClipSettings


def animate(
    pipeline: VCutPipeline, picture: Image.Image, settings: ClipSettings, on_step: OnStep
) -> list[list[Image.Image]]:
    """Make the clips of one call: V lists of F frames.

    Raises:
        ConfigError: The settings are not usable.
        NotFiniteError: Numbers overflowed.
        DeviceMemoryError: The GPU has no room for the video.
    """
    video = pipeline.video
    clips = pipeline(
        fit_image(picture, width=video.width, height=video.height, fit=settings.fit),
        step_plan=plan_of_settings(pipeline.scheduler, settings),
        fps=settings.fps,
        motion_bucket_id=settings.motion_bucket_id,
        noise_aug_strength=settings.noise_aug_strength,
        min_guidance_scale=settings.min_guidance_scale,
        max_guidance_scale=settings.max_guidance_scale,
        num_videos_per_prompt=video.videos,
        generator=torch.Generator().manual_seed(settings.seed),
        callback_on_step_end=_followed_by(StepReport(on_step, settings.num_inference_steps, pipeline.device)),
        callback_on_step_end_tensor_inputs=(),
    ).frames
    return [list(clip) for clip in clips]


def _followed_by(report: StepReport) -> StepCallback:
    def follow(_pipeline: Any, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        report(index)
        return {}

    return follow

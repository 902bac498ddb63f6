"""A clip's settings, and the one way in which commands and servers make it: the same settings make the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from vcut_trt.runtime.image import fit_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.clip import ClipSettings

OnStep = Callable[[int], None]
"""Called with the number of steps done, from 1. What it raises ends the video between two steps."""


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
        num_inference_steps=settings.num_inference_steps,
        cut_step=settings.cut_step,
        fps=settings.fps,
        motion_bucket_id=settings.motion_bucket_id,
        noise_aug_strength=settings.noise_aug_strength,
        min_guidance_scale=settings.min_guidance_scale,
        max_guidance_scale=settings.max_guidance_scale,
        num_videos_per_prompt=video.videos,
        generator=torch.Generator().manual_seed(settings.seed),
        callback_on_step_end=_StepReport(on_step, settings.num_inference_steps),
        callback_on_step_end_tensor_inputs=(),
    ).frames
    return [list(clip) for clip in clips]


class _StepReport:
    """Tells of steps that are done, not of steps that are enqueued.

    On a GPU the loop runs ahead of the kernels. A report waits for the step before the one just enqueued: the GPU
    always has one step more to do, and whoever ends the video waits for two steps at most. Only the last step is waited
    for itself.
    """

    def __init__(self, on_step: OnStep, steps: int) -> None:
        self._on_step = on_step
        self._steps = steps
        self._before: torch.cuda.Event | None = None

    def __call__(self, pipeline: VCutPipeline, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        """Follow step `index`, from 0. See `VCutPipeline.__call__`."""
        if pipeline.device.type != "cuda":
            self._on_step(index + 1)
            return {}
        enqueued = torch.cuda.Event()  # type: ignore[no-untyped-call]
        enqueued.record(torch.cuda.current_stream(pipeline.device))
        if self._before is not None:
            self._before.synchronize()
            self._on_step(index)
        if index + 1 == self._steps:
            enqueued.synchronize()
            self._on_step(index + 1)
        self._before = enqueued
        return {}

"""From an image file to MP4 files: what `vcut generate` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vcut_trt.bundle import Bundle
from vcut_trt.engines.backends import BackendChoice, EngineOptions
from vcut_trt.errors import ConfigError
from vcut_trt.progress import SILENT, Progress
from vcut_trt.runtime.image import Fit, fit_image, load_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.video import check_video, write_mp4
from vcut_trt.schedule import CutSchedule

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """One call of the pipeline, and where its videos go.

    Raises:
        ConfigError: The seed, the path or the frame rate is not usable.
    """

    image: Path
    output: Path  # .mp4; with several videos a call, `-1`, `-2` … is added to its name
    fit: Fit
    schedule: CutSchedule
    seed: int
    fps: int
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float
    max_guidance_scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(f"seed is {self.seed}; it must lie in 0 … {LARGEST_SEED}")
        check_video(self.output, self.fps)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a call made."""

    videos: tuple[Path, ...]
    seconds: float  # denoising and everything around it; opening the engines is not in it


def generate_videos(
    bundle: Bundle,
    config: GenerateConfig,
    choice: BackendChoice,
    options: EngineOptions,
    progress: Progress = SILENT,
) -> Generated:
    """Animate one image: as many videos as the bundle makes at a time, each from noise of its own.

    Raises:
        ImageError: The image cannot be read or used.
        BundleError: A file of the bundle is missing or was changed.
        EngineError: The engines cannot be opened.
        VideoError: A video cannot be written.
    """
    video, steps = bundle.manifest.video, config.schedule.num_inference_steps
    picture = fit_image(load_image(config.image), width=video.width, height=video.height, fit=config.fit)
    with progress.stage("open engines"):
        pipeline = VCutPipeline.from_choice(bundle, choice, options)
    start = time.monotonic()
    title = f"denoise, cut at step {config.schedule.cut_step} of {steps}, and decode"
    with pipeline, progress.stage(title) as advance:

        def report(_pipeline: VCutPipeline, index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            advance(index + 1, steps)
            return {}

        clips = pipeline(
            picture,
            num_inference_steps=steps,
            cut_step=config.schedule.cut_step,
            fps=config.fps,
            motion_bucket_id=config.motion_bucket_id,
            noise_aug_strength=config.noise_aug_strength,
            min_guidance_scale=config.min_guidance_scale,
            max_guidance_scale=config.max_guidance_scale,
            num_videos_per_prompt=video.videos,
            generator=torch.Generator().manual_seed(config.seed),
            callback_on_step_end=report,
            callback_on_step_end_tensor_inputs=(),
        ).frames
    seconds = time.monotonic() - start
    paths = _paths(config.output, len(clips))
    for path, clip in zip(paths, clips, strict=True):
        write_mp4(clip, path, config.fps)
    return Generated(videos=paths, seconds=seconds)


def _paths(output: Path, count: int) -> tuple[Path, ...]:
    """`clip.mp4`, or `clip-1.mp4`, `clip-2.mp4` … for several videos."""
    if count == 1:
        return (output,)
    return tuple(output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(1, count + 1))

"""From an image file to MP4 files: what `vcut generate` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import BackendChoice
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.keeping import write_clips
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.video import check_video
from vcut_trt.runtime.warm_up import compile_for_one
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.warm_up import WarmUp
from vcut_trt.work.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """One call of the pipeline, and where its videos go.

    Raises:
        ConfigError: The path is not usable.
    """

    image: Path
    output: Path  # .mp4; with several videos a call, `-1`, `-2` … is added to its name
    settings: ClipSettings

    def __post_init__(self) -> None:
        check_video(self.output, self.settings.fps)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a call made."""

    videos: tuple[Path, ...]
    seconds: float  # denoising and everything around it; opening the engines and warming them up is not in it


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
        ConfigError: A video could not be written.
        VideoError: A video cannot be written all the same; the message says where it is kept.
    """
    settings = config.settings
    paths = _paths(config.output, bundle.manifest.video.videos)
    for path in paths:
        check_video(path, settings.fps)
    steps = settings.num_inference_steps
    picture = load_image(config.image)
    with progress.stage("open engines"):
        pipeline = VCutPipeline.from_choice(bundle, choice, options)
    title = f"denoise, cut at step {settings.cut_step} of {steps}, and decode"
    with pipeline:
        if WarmUp.AUTO.is_wanted(pipeline.device.type):
            with progress.stage("warming up") as warmed:
                compile_for_one(pipeline, lambda _doing, done, total: warmed(done, total))
        start = time.monotonic()
        with progress.stage(title) as advance:
            clips = animate(pipeline, picture, settings, lambda step: advance(step, steps))
        seconds = time.monotonic() - start
    write_clips(clips, paths, settings.fps)
    return Generated(videos=paths, seconds=seconds)


def _paths(output: Path, count: int) -> tuple[Path, ...]:
    """`clip.mp4`, or `clip-1.mp4`, `clip-2.mp4` … for several videos."""
    if count == 1:
        return (output,)
    return tuple(output.with_name(f"{output.stem}-{index}{output.suffix}") for index in range(1, count + 1))

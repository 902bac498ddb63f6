"""What a call of the pipeline may be given: checks, and what follows from the arguments alone."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from vcut_trt.errors import ConfigError
from vcut_trt.runtime.call import Generators
from vcut_trt.spec.step_plan import StepSupport
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_sizes(
    video: VideoSpec, *, height: int | None, width: int | None, num_frames: int | None, decode_chunk_size: int | None
) -> None:
    """Sizes are the pipeline's own; if given, they must be these. A longer chunk than the video is all of it."""
    sizes = {
        "height": (height, video.height, "height"),
        "width": (width, video.width, "width"),
        "num_frames": (num_frames, video.frames, "frames"),
        "decode_chunk_size": (
            decode_chunk_size and min(decode_chunk_size, video.frames),
            video.decode_chunk,
            "decode_chunk",
        ),
    }
    for name, (asked, built, chosen) in sizes.items():
        if asked is not None and asked != built:
            raise ConfigError(f"{name} is {asked}; this pipeline was made for {built}. {_made_by(chosen)}")


def _made_by(chosen: str) -> str:
    """Where a pipeline's size is decided: pipelines come of bundles and of checkpoints, and have no other."""
    return f"Make another with vcut-export --{chosen.replace('_', '-')}, or with load_pretrained(…, {chosen}=…)."


def check_choices(output_type: str, tensor_inputs: Collection[str]) -> None:
    """The output type, and what callbacks ask for."""
    if output_type not in OUTPUT_TYPES:
        raise ConfigError(f"output_type is {output_type!r}; use {', '.join(OUTPUT_TYPES)}")
    if set(tensor_inputs) - {"latents"}:
        raise ConfigError(f"callbacks are given `latents` only; {', '.join(tensor_inputs)} were asked for")


def check_videos(video: VideoSpec, images: int, videos_per_image: int) -> None:
    """A call makes exactly the pipeline's number of videos."""
    if images * videos_per_image != video.videos:
        raise ConfigError(
            f"{images} image(s) times {videos_per_image} video(s) each are not the {video.videos} video(s) "
            f"that this pipeline makes at a time. Call it with so many. {_made_by('videos')}"
        )


def latents_shape(video: VideoSpec) -> tuple[int, ...]:
    """(V, F, 4, h, w)."""
    return (video.videos, video.frames, LATENT_CHANNELS, video.latent_height, video.latent_width)


def check_latents(video: VideoSpec, latents: Tensor | None) -> None:
    """Latents that were passed have the pipeline's shape."""
    if latents is not None and tuple(latents.shape) != latents_shape(video):
        raise ConfigError(f"latents is {tuple(latents.shape)}; this pipeline makes {latents_shape(video)}")


def check_generator(generator: Generators, videos: int, device: torch.device) -> None:
    """A generator for all videos, or one for each, that can draw on the device.

    Raises:
        ConfigError: They are not as many, or something else than generators, or on another GPU's.
    """
    if isinstance(generator, list) and len(generator) != videos:
        raise ConfigError(
            f"generator is a list of {len(generator)}; this call makes {videos} video(s): pass one generator, or a "
            "list with one for each video"
        )
    for one in generator if isinstance(generator, list) else () if generator is None else (generator,):
        if not isinstance(one, torch.Generator):
            raise ConfigError(f"generator is a {type(one).__name__}; use torch.Generator().manual_seed(0), or None")
        if one.device.type not in ("cpu", device.type):
            raise ConfigError(f"generator draws on {one.device}, and this pipeline is on {device}; use one of the CPU")


def chosen_guidance(steps: StepSupport, lowest: float | None, highest: float | None) -> tuple[float, float]:
    """The scales of the first and the last frame: those of a call, and where it names none, the pipeline's."""
    return (
        steps.guidance[0] if lowest is None else lowest,
        steps.guidance[1] if highest is None else highest,
    )


def guidance_scales(lowest: float, highest: float, frames: int) -> Tensor:
    """The guidance scale of each frame, (F) fp32.

    Raises:
        ConfigError: The scales are not finite, or the wrong way round.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ConfigError(f"the guidance scale runs from {lowest} to {highest}; both must be finite numbers")
    if highest <= 1 < lowest:
        raise ConfigError(f"min_guidance_scale is {lowest}, above max_guidance_scale, {highest}")
    return torch.linspace(lowest, highest, frames)

"""From frames on the device to pictures on the host, a byte a colour.

    v = round(255 · clamp(x / 2 + ½, 0, 1))      halves to even: diffusers' `VaeImageProcessor`, to the last bit

Rounded where the frames are, a quarter of the bytes leaves the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vcut_trt.engines.workspace import download

if TYPE_CHECKING:
    from diffusers.pipelines.stable_video_diffusion import StableVideoDiffusionPipelineOutput


def to_pictures(frames: Tensor) -> list[list[Image.Image]]:
    """PIL images, a list for each video, of decoded frames (V, 3, F, H, W) in [−1, 1] but for overshoot."""
    return [[Image.fromarray(frame) for frame in download(_pixels(clip)).numpy()] for clip in frames]


def _pixels(clip: Tensor) -> Tensor:
    """(F, H, W, 3), 0 … 255, of (3, F, H, W)."""
    levels = (clip * 0.5 + 0.5).clamp_(0, 1).mul_(255).round_()
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def as_output(frames: Any) -> StableVideoDiffusionPipelineOutput:
    """Frames in diffusers' output class."""
    from diffusers.pipelines.stable_video_diffusion import StableVideoDiffusionPipelineOutput

    return StableVideoDiffusionPipelineOutput(frames=frames)

"""Clips of the miniature: from a scene's first frame, by diffusers' pipeline or one that is called like it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableVideoDiffusionPipeline
from torch import Tensor, nn

from examples.miniature.world import HEIGHT, WIDTH, Clip, to_image

LATENT_CHANNELS = 4


class Pipeline(Protocol):
    """What `StableVideoDiffusionPipeline` and `VCutPipeline` have in common."""

    def __call__(self, image: Any, **settings: Any) -> Any:
        """Make a clip."""


def open_pipeline(model: Path) -> StableVideoDiffusionPipeline:
    """diffusers' own pipeline over a checkpoint, in fp32."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def animate(
    pipeline: Pipeline,
    clip: Clip,
    *,
    seed: int,
    steps: int = 25,
    max_guidance_scale: float = 3.0,
    noise_aug_strength: float = 0.02,
) -> Tensor:
    """What the pipeline makes of the first frame of `clip`: (F, 3, H, W) in [0, 1]."""
    frames = pipeline(
        to_image(clip.frames[0]),
        height=HEIGHT,
        width=WIDTH,
        num_frames=len(clip.frames),
        num_inference_steps=steps,
        fps=clip.scene.fps,
        motion_bucket_id=clip.scene.motion_bucket_id,
        noise_aug_strength=noise_aug_strength,
        decode_chunk_size=len(clip.frames),
        min_guidance_scale=1.0,
        max_guidance_scale=max_guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).frames[0]
    return torch.as_tensor(frames).float()


@contextmanager
def unconditional(unet: nn.Module) -> Iterator[None]:
    """Hide image and embedding from a UNet of diffusers; fps and motion bucket stay."""

    def hide(_unet: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        sample, *rest = args
        sample = sample.clone()
        sample[:, :, LATENT_CHANNELS:] = 0
        hidden = torch.zeros_like(inputs["encoder_hidden_states"])
        return (sample, *rest), {**inputs, "encoder_hidden_states": hidden}

    hook = unet.register_forward_pre_hook(hide, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()

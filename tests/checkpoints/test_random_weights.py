"""Random weights keep every activation finite in fp16: the depth of SVD, a fifth of its width."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.models import checkpoint, with_unet
from vcut_trt.checkpoints.tiny import TINY
from vcut_trt.export.encoders import ImageEncoder, VaeDecoder

FP16_SAFE = 10_000.0  # a sixth of fp16's largest number: full width is no deeper, so no larger by much
MEDIUM = with_unet(
    replace(
        TINY,
        vae={**TINY.vae, "block_out_channels": (32, 64, 128, 128)},
        image_encoder={**TINY.image_encoder, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 32},
    ),
    block_out_channels=(64, 128, 256, 256),
    num_attention_heads=(1, 2, 4, 4),
)


def largest_activation(module: nn.Module, *inputs: Tensor) -> float:
    """The largest magnitude that any layer of `module` puts out; infinite or NaN if one overflows."""
    largest = [0.0]

    def watch(_module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor):
            magnitude = float(output.abs().max())
            largest.append(magnitude if magnitude == magnitude else float("inf"))  # NaN differs from itself

    for layer in module.modules():
        layer.register_forward_hook(watch)
    with torch.inference_mode():
        module(*inputs)
    return max(largest)


@pytest.mark.parametrize("sigma", [700.0, 0.002])
def test_the_unet_stays_finite_in_fp16(sigma: float) -> None:
    half = torch.float16
    generator = torch.Generator().manual_seed(0)
    latents = sigma * torch.randn(1, 2, 4, 8, 16, generator=generator)
    image_latents = torch.randn(1, 4, 8, 16, generator=generator).to(half)
    embedding = torch.randn(1, 1, 64, generator=generator).to(half)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]])
    step = checkpoint(MEDIUM).unet(half)
    sample = torch.cat(
        [(latents / (sigma**2 + 1) ** 0.5).to(half), image_latents[:, None].expand(-1, 2, -1, -1, -1)], 2
    )
    timestep = torch.tensor(0.25 * math.log(sigma))
    assert 0 < largest_activation(step, sample, timestep, embedding, time_ids) < FP16_SAFE


def test_the_vae_decoder_and_clip_stay_finite_in_fp16() -> None:
    half = torch.float16
    decoder = VaeDecoder(checkpoint(MEDIUM).vae(half), half)
    assert 0 < largest_activation(decoder, 0.18215 * torch.randn(2, 4, 8, 8)) < FP16_SAFE
    encoder = ImageEncoder(checkpoint(MEDIUM).image_encoder(half), nn.Identity())
    assert 0 < largest_activation(encoder, torch.randn(1, 3, 224, 224).to(half)) < FP16_SAFE

"""The parts of the miniature: diffusers' own classes, their sizes, and how they begin.

64 channels at every level: GroupNorm has 32 groups throughout, and with 32 channels it would be an instance norm, which
loses the mean of every channel. The UNet has three levels, 8×8, 4×4 and 2×2 latents: at 1×1 nothing spatial is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from examples.miniature.world import FRAMES, HEIGHT, WIDTH

CHANNELS = 64
EMBEDDING_WIDTH = 64
CLIP_GRID = 7  # patches each way: 224 / 32

CLIP: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 32,
    "image_size": 224,
    "projection_dim": EMBEDDING_WIDTH,
    "hidden_act": "gelu",
}
VAE: dict[str, Any] = {
    "block_out_channels": (CHANNELS,) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": HEIGHT,
    "force_upcast": True,
}
UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (CHANNELS,) * 3,
    "down_block_types": (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    ),
    "up_block_types": (
        "UpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
    ),
    "layers_per_block": 1,
    "num_attention_heads": (2, 2, 2),
    "cross_attention_dim": EMBEDDING_WIDTH,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "num_frames": FRAMES,
    "sample_size": WIDTH // 8,
}


def make_clip() -> CLIPVisionModelWithProjection:
    """CLIP's tower with an embedding that tells places from the start.

    transformers draws position embeddings with a spread of 0.02, too little for a short training to find them.
    """
    torch.manual_seed(0)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP))
    embeddings = clip.vision_model.embeddings
    cells = torch.cartesian_prod(torch.arange(float(CLIP_GRID)), torch.arange(float(CLIP_GRID)))  # (49, 2)
    waves = (cells[:, :, None] * torch.linspace(0.25, 3.0, 8)).flatten(1)  # (49, 16)
    with torch.no_grad():
        places = embeddings.position_embedding.weight[1:]
        places.zero_()
        places[:, : 2 * waves.shape[1]] = torch.cat([waves.sin(), waves.cos()], dim=1)
        nn.init.normal_(embeddings.patch_embedding.weight, std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
    return clip


def make_vae() -> AutoencoderKLTemporalDecoder:
    """The VAE: its temporal blocks, and the blocks at full resolution, begin as identities."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(**VAE)
    for block in [*temporal_blocks(vae), *full_resolution_blocks(vae)]:
        _zero(block.conv2)
    _zero(vae.decoder.time_conv_out)
    with torch.no_grad():
        for channel in range(vae.config.out_channels):
            vae.decoder.time_conv_out.weight[channel, channel, 1] = 1  # the middle of three frames
    return vae


def make_unet() -> UNetSpatioTemporalConditionModel:
    """The UNet; it begins by predicting nothing."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(**UNET)
    _zero(unet.conv_out)
    return unet


def temporal_blocks(vae: AutoencoderKLTemporalDecoder) -> Iterator[Any]:
    """The residual blocks of the decoder that mix frames."""
    return (block for name, block in vae.decoder.named_modules() if name.endswith("temporal_res_block"))


def full_resolution_blocks(vae: AutoencoderKLTemporalDecoder) -> list[Any]:
    """The residual blocks that work on whole pixels: most of the cost."""
    last = vae.decoder.up_blocks[-1].resnets
    return [*vae.encoder.down_blocks[0].resnets, *(block.spatial_res_block for block in last)]


def clip_pixels(frames: Tensor) -> Tensor:
    """What diffusers' pipeline shows to CLIP: frames (N, 3, H, W) in [-1, 1] become (N, 3, 224, 224), normalised."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((_resize_with_antialiasing(frames, (224, 224)) + 1) / 2 - mean) / std


def psnr(truth: Tensor, made: Tensor) -> float:
    """Of values in [-1, 1], in dB."""
    return -10 * math.log10(float(((truth - made) / 2).square().mean()))


def _zero(convolution: nn.Module) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)

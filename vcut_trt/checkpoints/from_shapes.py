"""The architecture of a model from the shapes of its parameters, where no configuration lies beside them.

Shapes tell channels, depth and which levels have attention. What they do not tell is the same in the whole SVD family:
heads of 64 channels in the UNet and of 80 in CLIP, the exact GELU, the scaling factor. Frames are the user's to say.

Names are diffusers' and transformers'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from vcut_trt.checkpoints.svd import SVD_XT
from vcut_trt.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

UNET_HEAD, VISION_HEAD = 64, 80
"""Channels of an attention head."""


def unet_config(shapes: Shapes, frames: int) -> dict[str, Any]:
    """The arguments of diffusers' UNetSpatioTemporalConditionModel.

    Raises:
        KeyError: A parameter is missing.
        CheckpointError: The channels are no multiples of a head's.
    """
    levels, layers = _count("down_blocks.{}.", shapes), _count("down_blocks.0.resnets.{}.", shapes)
    channels = [shapes[f"down_blocks.{i}.resnets.0.spatial_res_block.conv1.weight"][0] for i in range(levels)]
    _refuse_odd_heads("UNet", channels, UNET_HEAD)
    down, up = (
        [any(name.startswith(f"{way}_blocks.{i}.attentions.") for name in shapes) for i in range(levels)]
        for way in ("down", "up")
    )
    ids = shapes["add_embedding.linear_1.weight"][1]
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(f"{'CrossAttn' * has}DownBlockSpatioTemporal" for has in down),
        "up_block_types": tuple(f"{'CrossAttn' * has}UpBlockSpatioTemporal" for has in up),
        "layers_per_block": layers,
        "transformer_layers_per_block": _count("mid_block.attentions.0.transformer_blocks.{}.", shapes),
        "num_attention_heads": tuple(count // UNET_HEAD for count in channels),
        "cross_attention_dim": shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
        "addition_time_embed_dim": ids // 3,  # fps, motion bucket, noise on the picture
        "projection_class_embeddings_input_dim": ids,
        "num_frames": frames,
        "sample_size": SVD_XT.unet["sample_size"],
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKLTemporalDecoder. Raises KeyError where a parameter is missing."""
    levels = _count("encoder.down_blocks.{}.", shapes)
    channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    return {
        **SVD_XT.vae,
        "block_out_channels": tuple(channels),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "layers_per_block": _count("encoder.down_blocks.0.resnets.{}.", shapes),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
    }


def image_encoder_config(shapes: Shapes) -> dict[str, Any]:
    """The arguments of transformers' CLIPVisionConfig.

    Raises:
        KeyError: A parameter is missing.
        CheckpointError: The width is no multiple of a head's.
    """
    width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
    positions, _ = shapes["vision_model.embeddings.position_embedding.weight"]
    _refuse_odd_heads("vision tower", [width], VISION_HEAD)
    return {
        **SVD_XT.image_encoder,
        "hidden_size": width,
        "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count("vision_model.encoder.layers.{}.", shapes),
        "num_attention_heads": width // VISION_HEAD,
        "patch_size": patch,
        "image_size": isqrt(positions - 1) * patch,  # one position is the class token's
        "projection_dim": shapes["visual_projection.weight"][0],
    }


def _count(pattern: str, shapes: Shapes) -> int:
    """How many numbers stand at the place of `{}`."""
    numbered = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    return len({found[1] for name in shapes if (found := numbered.match(name))})


def _refuse_odd_heads(part: str, channels: list[int], head: int) -> None:
    odd = [count for count in channels if count % head]
    if odd:
        raise CheckpointError(
            f"its {part} has {odd[0]} channels, and a multiple of {head} was expected: the SVD family has heads of "
            f"{head} channels. Save the model in diffusers' layout, whose configuration says how many heads there are."
        )

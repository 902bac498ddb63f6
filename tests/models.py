"""Architectures that the tests trace: SVD's block types with as few of them, and as small, as a test needs."""

from __future__ import annotations

from dataclasses import replace

from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER, Architecture

NANO = Architecture(
    unet={
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "layers_per_block": 1,
        "num_attention_heads": (2, 4),
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 48,
        "num_frames": 6,
        "sample_size": 8,
    },
    vae={
        "block_out_channels": (32, 32, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "sample_size": 64,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    },
    image_encoder={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 56,
        "image_size": 224,
        "projection_dim": 32,
        "hidden_act": "gelu",
    },
    scheduler=SCHEDULER,
    feature_extractor=FEATURE_EXTRACTOR,
    height=64,
    width=128,
)
"""The smallest UNet with both kinds of transformer block, going down, in the middle and going up."""


def checkpoint(architecture: Architecture = NANO) -> RandomCheckpoint:
    """A checkpoint with random weights."""
    return RandomCheckpoint("nano", architecture)


def with_unet(architecture: Architecture, **changes: object) -> Architecture:
    """The architecture with another UNet."""
    return replace(architecture, unet={**architecture.unet, **changes})

"""The miniature: SVD's architecture at 1/10 of its width, for tests, demonstrations and a first look.

Every block type, all 16 + 16 cross-attentions and the 4 levels of the VAE are there; the channels, CLIP's depth and the
picture are small. Its weights are random and the same on every run, so its videos show textures, not scenes.
"""

from __future__ import annotations

from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER, Architecture
from vcut_trt.spec.precision import Precision

TINY = Architecture(
    unet={
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "num_attention_heads": (2, 4, 8, 8),
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 96,
        "num_frames": 8,
        "sample_size": 16,
    },
    vae={
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 128,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    },
    image_encoder={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 32,
        "image_size": 224,
        "projection_dim": 64,
        "hidden_act": "gelu",
    },
    scheduler=SCHEDULER,
    feature_extractor=FEATURE_EXTRACTOR,
    height=128,
    width=192,
    default_precision=Precision.FP32,
)

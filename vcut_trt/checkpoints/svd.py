"""The architectures of the SVD family, as their published configuration files state them.

Source: `unet/config.json`, `vae/config.json`, `image_encoder/config.json`, `scheduler/scheduler_config.json` and
`feature_extractor/preprocessor_config.json` of the three repositories in `HUB_IDS`. They differ in the number of frames
alone; SVD-XT and SVD-XT 1.1 differ in their weights only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcut_trt.errors import CheckpointError
from vcut_trt.spec.graphs import CLIP_SIZE
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.sampling import MUST_BE
from vcut_trt.spec.video import LATENT_CHANNELS, VAE_SCALE

HUB_IDS: Mapping[str, str] = {
    "svd": "stabilityai/stable-video-diffusion-img2vid",
    "svd-xt": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd-xt-1.1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The five parts of a checkpoint without their weights, as keyword arguments of the classes that hold them."""

    unet: Config  # diffusers.UNetSpatioTemporalConditionModel
    vae: Config  # diffusers.AutoencoderKLTemporalDecoder
    image_encoder: Config  # transformers.CLIPVisionConfig
    scheduler: Config  # diffusers.EulerDiscreteScheduler
    feature_extractor: Config  # transformers.CLIPImageProcessor
    height: int  # pixels of the videos that it was trained on
    width: int
    default_precision: Precision = Precision.FP16  # where the user names none


SCHEDULER: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}

FEATURE_EXTRACTOR: Config = {
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


def _svd(frames: int) -> Architecture:
    return Architecture(
        unet={
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "transformer_layers_per_block": 1,
            "num_attention_heads": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 768,
            "num_frames": frames,
            "sample_size": 96,
        },
        vae={
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 768,
            "scaling_factor": 0.18215,
            "force_upcast": True,
        },
        image_encoder={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 224,
            "projection_dim": 1024,
            "hidden_act": "gelu",
        },
        scheduler=SCHEDULER,
        feature_extractor=FEATURE_EXTRACTOR,
        height=576,
        width=1024,
    )


SVD = _svd(frames=14)
SVD_XT = _svd(frames=25)

FAMILY: Mapping[str, Architecture] = {"svd": SVD, "svd-xt": SVD_XT, "svd-xt-1.1": SVD_XT}


def check_architecture(folder: Path, configs: dict[str, dict[str, Any]]) -> None:
    """Refuse what would trace into a graph that means something else.

    Raises:
        CheckpointError: A configuration is not of this family; the message names the value.
    """
    unet, vae, clip, scheduler = (configs[part] for part in ("unet", "vae", "image_encoder", "scheduler"))
    check_unet(folder, unet, embedding_width=clip.get("projection_dim"))
    _compare(
        folder,
        ("vae/_class_name", vae.get("_class_name"), "AutoencoderKLTemporalDecoder"),
        ("vae/latent_channels", vae.get("latent_channels"), LATENT_CHANNELS),
        ("vae/pixels per latent", 2 ** (len(vae.get("block_out_channels", ())) - 1), VAE_SCALE),
        ("image_encoder/image_size", clip.get("image_size"), CLIP_SIZE),
        ("scheduler/_class_name", scheduler.get("_class_name"), "EulerDiscreteScheduler"),
        *((f"scheduler/{name}", scheduler.get(name), wanted) for name, wanted in MUST_BE.items()),
    )


def check_unet(folder: Path, unet: Config, *, embedding_width: object) -> None:
    """Refuse a UNet whose configuration is of another family, or that takes embeddings of another width.

    Raises:
        CheckpointError: The message names the value.
    """
    _compare(
        folder,
        ("unet/_class_name", unet.get("_class_name"), "UNetSpatioTemporalConditionModel"),
        ("unet/in_channels", unet.get("in_channels"), 2 * LATENT_CHANNELS),
        ("unet/out_channels", unet.get("out_channels"), LATENT_CHANNELS),
        ("unet/cross_attention_dim", unet.get("cross_attention_dim"), embedding_width),
    )
    if not isinstance(unet.get("num_frames"), int):
        raise CheckpointError(f"{folder} is not of the SVD architecture: unet/num_frames is missing")


def _compare(folder: Path, *expected: tuple[str, object, object]) -> None:
    for name, came, wanted in expected:
        if came != wanted:
            raise CheckpointError(f"{folder} is not of the SVD architecture: {name} is {came!r}, expected {wanted!r}")

"""The parts of an architecture: models without weights, and the configurations beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import init_empty_weights

from vcut_trt.checkpoints.svd import Architecture, Config

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection


def empty_unet(config: Config) -> UNetSpatioTemporalConditionModel:
    """A UNet whose parameters have no storage."""
    from diffusers import UNetSpatioTemporalConditionModel

    with init_empty_weights(include_buffers=False):
        return UNetSpatioTemporalConditionModel.from_config(config)


def empty_vae(config: Config) -> AutoencoderKLTemporalDecoder:
    """A VAE whose parameters have no storage."""
    from diffusers import AutoencoderKLTemporalDecoder

    with init_empty_weights(include_buffers=False):
        return AutoencoderKLTemporalDecoder.from_config(config)


def empty_image_encoder(config: Config) -> CLIPVisionModelWithProjection:
    """CLIP's vision tower, its parameters without storage."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with init_empty_weights(include_buffers=False):
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(dict(config)))


def write_configs(architecture: Architecture, folder: Path) -> None:
    """Write `scheduler/` and `feature_extractor/` in diffusers' layout."""
    from diffusers import EulerDiscreteScheduler

    EulerDiscreteScheduler(**architecture.scheduler).save_pretrained(folder / "scheduler")
    # Written as JSON: CLIPImageProcessor itself can be built only where torchvision or a recent transformers is.
    extractor = {"image_processor_type": "CLIPImageProcessor", **architecture.feature_extractor}
    target = folder / "feature_extractor" / "preprocessor_config.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(extractor, indent=2) + "\n", encoding="utf-8")

"""What a checkpoint is: where a model's weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from vcut_trt.bundle.manifest import ModelRecord, SourceRecord
from vcut_trt.checkpoints.svd import Config

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection


class Checkpoint(Protocol):
    """Where a model's weights come from. Every call makes its part anew: the caller owns and frees it."""

    model_id: str
    revision: str | None
    random_weights: bool
    frames: int
    height: int
    width: int
    embedding_width: int  # of CLIP's image embedding: 1024 in the SVD family

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The VAE, in `dtype`."""

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """CLIP's vision tower with its projection, in `dtype`."""

    def unet_config(self) -> Config:
        """The arguments of diffusers' UNetSpatioTemporalConditionModel; a folder's file may say more."""

    def save_configs(self, folder: Path) -> None:
        """Write `scheduler/` and `feature_extractor/` in diffusers' layout."""

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters `unet`, `vae` and `image_encoder` have; no weights are loaded for it."""

    def sources(self) -> tuple[SourceRecord, ...]:
        """The files that the parts are made of, with their hashes, the model's own first; none for random weights."""

    def record(self) -> ModelRecord:
        """What a bundle says of it."""

    def fingerprint(self) -> str:
        """A hash of everything that the parts are made of."""

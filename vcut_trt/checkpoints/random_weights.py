"""A checkpoint made of an architecture and deterministic random weights: nothing is downloaded.

    matrices and kernels   N(0, 1 / fan-in)      every layer passes on about the variance that it was given
    norms                  1 + N(0, 0.05²)       biases N(0, 0.05²): small, but wrong results if they are left out

So all activations stay of the order of √depth, far below fp16's 65,504. Each parameter has a random stream of its own,
seeded by its name, and is drawn in fp32 and rounded: the same weights in every precision, never a whole fp32 copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from vcut_trt.bundle.manifest import ModelRecord, SourceRecord
from vcut_trt.checkpoints.parts import empty_image_encoder, empty_unet, empty_vae, write_configs
from vcut_trt.checkpoints.svd import Architecture, Config

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

Module = TypeVar("Module", bound=nn.Module)

RECIPE = 1  # counts up when the same architecture gets other weights
SPREAD = 0.05  # standard deviation of what is near 0 or near 1: biases, norms, embeddings


class RandomCheckpoint:
    """An architecture whose parts are made on demand, in the type asked for. See `checkpoints.Checkpoint`."""

    random_weights = True
    revision: str | None = None

    def __init__(self, model_id: str, architecture: Architecture) -> None:
        self.model_id = model_id
        self._architecture = architecture
        self.frames = int(architecture.unet["num_frames"])
        self.height = architecture.height
        self.width = architecture.width
        self.embedding_width = int(architecture.image_encoder["projection_dim"])

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""
        return _fill(empty_unet(self._architecture.unet), dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The VAE, in `dtype`."""
        return _fill(empty_vae(self._architecture.vae), dtype)

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """CLIP's vision tower with its projection, in `dtype`."""
        return _fill(empty_image_encoder(self._architecture.image_encoder), dtype)

    def unet_config(self) -> Config:
        """The UNet's configuration."""
        return self._architecture.unet

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has."""
        parts = {
            "unet": empty_unet(self._architecture.unet),
            "vae": empty_vae(self._architecture.vae),
            "image_encoder": empty_image_encoder(self._architecture.image_encoder),
        }
        return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}

    def sources(self) -> tuple[SourceRecord, ...]:
        """No file is read."""
        return ()

    def record(self) -> ModelRecord:
        """What a bundle says of it."""
        return ModelRecord(id=self.model_id, revision=None, random_weights=True)

    def fingerprint(self) -> str:
        """A hash of the architecture and of how its weights are drawn."""
        recipe = json.dumps([asdict(self._architecture), SPREAD, RECIPE], sort_keys=True)
        return hashlib.sha256(recipe.encode()).hexdigest()

    def save_configs(self, folder: Path) -> None:
        """Write `scheduler/` and `feature_extractor/` in diffusers' layout."""
        write_configs(self._architecture, folder)


def _fill(module: Module, dtype: torch.dtype) -> Module:
    """Give every parameter of `module`, made without storage, its random values."""
    for name, parameter in list(module.named_parameters()):
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        values = _draw(name, parameter, is_norm=isinstance(owner, (nn.GroupNorm, nn.LayerNorm))).to(dtype)
        setattr(owner, leaf, nn.Parameter(values, requires_grad=False))
    return module.eval()


def _draw(name: str, parameter: nn.Parameter, *, is_norm: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim > 1 and "embedding.weight" not in name:
        return values.div_(math.sqrt(parameter[0].numel()))
    if is_norm and name.endswith("weight"):
        return values.mul_(SPREAD).add_(1)
    return values.mul_(SPREAD)

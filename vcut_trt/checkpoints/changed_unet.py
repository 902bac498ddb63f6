"""A checkpoint whose UNet is another one, trained alone, or carries LoRAs; its other parts are those of the base.

    base ─► with another UNet ─► with LoRAs fused, before the fold

Both are checkpoints themselves, so that whatever reads one does not know about them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from vcut_trt.bundle.manifest import LoraRecord, ModelRecord, ReadFile, SourceRecord
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.lora import Lora, LoraChoice, fuse
from vcut_trt.checkpoints.lora_keys import LayerNames
from vcut_trt.checkpoints.original_names import unet_names
from vcut_trt.checkpoints.parts import empty_unet
from vcut_trt.checkpoints.svd import Config
from vcut_trt.checkpoints.unet_source import UNetSource

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

READING, FUSION = 1, 1  # count up when the same files come to give another UNet


class _Over:
    """A checkpoint over another one: what it does not change is the base's."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self.model_id = base.model_id
        self.revision = base.revision
        self.random_weights = base.random_weights
        self.frames = base.frames
        self.height, self.width = base.height, base.width
        self.embedding_width = base.embedding_width

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The base's VAE, in `dtype`."""
        return self._base.vae(dtype)

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """The base's image encoder, in `dtype`."""
        return self._base.image_encoder(dtype)

    def unet_config(self) -> Config:
        """The arguments of diffusers' UNetSpatioTemporalConditionModel."""
        return self._base.unet_config()

    def save_configs(self, folder: Path) -> None:
        """Write the base's `scheduler/` and `feature_extractor/`."""
        self._base.save_configs(folder)

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has."""
        return self._base.parameter_counts()


class WithUNet(_Over):
    """A checkpoint with the UNet of another source.

    Raises:
        CheckpointError: The UNet does not fit the base; the message names what differs.
    """

    def __init__(self, base: Checkpoint, source: UNetSource, *, unet_id: str) -> None:
        super().__init__(base)
        self._unet_id = unet_id
        self._source = source
        self.frames = int(source.config["num_frames"])

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The other UNet, in `dtype`."""
        return self._source.load(dtype)

    def unet_config(self) -> Config:
        """The other UNet's."""
        return self._source.config

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has."""
        unet = sum(parameter.numel() for parameter in empty_unet(self._source.config).parameters())
        return {**self._base.parameter_counts(), "unet": unet}

    def sources(self) -> tuple[SourceRecord, ...]:
        """The base's files, its UNet's among them, and the UNet's."""
        return (*self._base.sources(), self._source.record)

    def record(self) -> ModelRecord:
        """What a bundle says of it."""
        return self._base.record().model_copy(update={"unet": self._unet_id, "sources": self.sources()})

    def fingerprint(self) -> str:
        """A hash of the base and of the UNet."""
        return _digest(self._base.fingerprint(), f"unet {READING}", self._source.record)


class WithLoras(_Over):
    """A checkpoint whose UNet has LoRAs fused.

    Raises:
        CheckpointError: A LoRA cannot be read, or does not fit the UNet; the message names the key.
    """

    def __init__(self, base: Checkpoint, choices: Sequence[LoraChoice]) -> None:
        super().__init__(base)
        config = base.unet_config()
        shapes = {
            name: tuple(module.weight.shape)
            for name, module in empty_unet(config).named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
        }
        layers = config["layers_per_block"]
        original = unet_names(len(config["block_out_channels"]), layers) if isinstance(layers, int) else {}
        names = LayerNames(shapes, original)
        self._loras = [Lora(choice, shapes, names) for choice in choices]
        self._records = tuple(_record(lora) for lora in self._loras)

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The base's UNet with the LoRAs in it, in `dtype`."""
        unet = self._base.unet(dtype)
        fuse(unet, self._loras)
        return unet

    def sources(self) -> tuple[SourceRecord, ...]:
        """The base's files, and each LoRA's."""
        return (*self._base.sources(), *self._records)

    def record(self) -> ModelRecord:
        """What a bundle says of it."""
        loras = tuple(LoraRecord(id=str(lora.choice.path), scale=lora.choice.scale) for lora in self._loras)
        return self._base.record().model_copy(update={"loras": loras, "sources": self.sources()})

    def fingerprint(self) -> str:
        """A hash of the base, and of each LoRA with its scale."""
        scales = " ".join(f"{lora.choice.scale!r}" for lora in self._loras)
        return _digest(self._base.fingerprint(), f"loras {FUSION} {scales}", *self._records)


def _record(lora: Lora) -> SourceRecord:
    folder = lora.choice.path.parent.resolve()
    return SourceRecord(place=str(folder), files=tuple(ReadFile.of(folder, folder / path.name) for path in lora.files))


def _digest(base: str, what: str, *records: SourceRecord) -> str:
    hashes = [file.sha256 for record in records for file in record.files]
    return hashlib.sha256("\n".join([base, what, *hashes]).encode()).hexdigest()

"""A checkpoint in a folder in diffusers' layout: UNet, VAE, image encoder, scheduler, feature extractor.

Weights are read from `.safetensors` only, one part at a time, straight into the type asked for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from vcut_trt.bundle.manifest import ModelRecord, ReadFile, SourceRecord
from vcut_trt.checkpoints.configs import CONFIG_FILES, check_feature_extractor, check_scheduler, read_config
from vcut_trt.checkpoints.keys import check_keys
from vcut_trt.checkpoints.parts import empty_image_encoder, empty_unet, empty_vae
from vcut_trt.checkpoints.svd import Config, check_architecture
from vcut_trt.checkpoints.tensor_files import StoredTensor, fill, read_tensors, stored_tensors
from vcut_trt.checkpoints.weights import WeightSet
from vcut_trt.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

MODEL_PARTS = ("unet", "vae", "image_encoder")
DEFAULT_HEIGHT, DEFAULT_WIDTH = 576, 1024


EMPTY: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": empty_unet,
    "vae": empty_vae,
    "image_encoder": empty_image_encoder,
}
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the layers of a VAE's attention before, and calls them now."""


class FolderCheckpoint:
    """A folder in diffusers' layout. See `Checkpoint`.

    Args:
        folder: Where it lies.
        model_id: What the user calls it.
        revision: Its commit, where it comes from the hub.
        choose: Says which weights of a part's folder are read.

    Raises:
        CheckpointError: A part is missing, cannot be read, or is not of the SVD architecture.
    """

    random_weights = False

    def __init__(
        self, folder: Path, *, model_id: str, revision: str | None, choose: Callable[[Path], WeightSet]
    ) -> None:
        self._folder = folder
        self.model_id = model_id
        self.revision = revision
        self._configs = {part: read_config(folder, part) for part in CONFIG_FILES}
        check_architecture(folder, self._configs)
        check_scheduler(folder, self._configs["scheduler"])
        check_feature_extractor(folder, self._configs["feature_extractor"])
        self.weights = {part: choose(folder / part) for part in MODEL_PARTS}
        self._tensors = {part: part_tensors(part, weights) for part, weights in self.weights.items()}
        for part, tensors in self._tensors.items():
            shapes = {name: tensor.header.shape for name, tensor in tensors.items()}
            check_keys(f"the {part} of {folder}", shapes, self._empty(part))
        self._sources: tuple[SourceRecord, ...] = ()
        self.frames = int(self._configs["unet"]["num_frames"])
        self.height, self.width = DEFAULT_HEIGHT, DEFAULT_WIDTH
        self.embedding_width = int(self._configs["image_encoder"]["projection_dim"])

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""
        return fill(empty_unet(self._configs["unet"]), self._read("unet"), dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The VAE, in `dtype`."""
        return fill(empty_vae(self._configs["vae"]), self._read("vae"), dtype)

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """CLIP's vision tower with its projection, in `dtype`."""
        return fill(empty_image_encoder(self._configs["image_encoder"]), self._read("image_encoder"), dtype)

    def unet_config(self) -> Config:
        """The UNet's configuration file."""
        return self._configs["unet"]

    def save_configs(self, folder: Path) -> None:
        """Copy `scheduler/` and `feature_extractor/`."""
        for part in ("scheduler", "feature_extractor"):
            target = folder / part / CONFIG_FILES[part]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / part / CONFIG_FILES[part], target)

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has, from the headers of its files."""
        return {
            part: sum(prod(tensor.header.shape) for tensor in tensors.values())
            for part, tensors in self._tensors.items()
        }

    def sources(self) -> tuple[SourceRecord, ...]:
        """The files of the folder that are read. They are hashed once."""
        if not self._sources:
            paths = [self._folder / part / name for part, name in CONFIG_FILES.items()]
            paths += [path for weights in self.weights.values() for path in weights.files]
            files = tuple(ReadFile.of(self._folder, path) for path in sorted(paths))
            place = str(self._folder.resolve()) if self.revision is None else self.model_id
            self._sources = (SourceRecord(place=place, files=files),)
        return self._sources

    def record(self) -> ModelRecord:
        """What a bundle says of it."""
        return ModelRecord(id=self.model_id, revision=self.revision, random_weights=False, sources=self.sources())

    def fingerprint(self) -> str:
        """A hash of the configurations and of the weights that are read."""
        read = [f"{file.path} {file.sha256}\n" for source in self.sources() for file in source.files]
        return hashlib.sha256("".join(read).encode()).hexdigest()

    def _read(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        return read_tensors(self._tensors[part])

    def _empty(self, part: str) -> nn.Module:
        return empty_part(part, self._configs[part], self._folder / part / CONFIG_FILES[part])


def empty_part(part: str, config: Config, path: Path) -> nn.Module:
    """A part made without storage, of the configuration in the file at `path`.

    Raises:
        CheckpointError: It cannot be built.
    """
    try:
        return EMPTY[part](config)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        raise CheckpointError(f"{path} describes no {part} that can be built: {first_line(error)}") from error


def part_tensors(part: str, weights: WeightSet) -> dict[str, StoredTensor]:
    """A part's tensors by their names in its model; constants that earlier versions saved are left out."""
    tensors = stored_tensors(weights.files)
    if part == "vae":
        former = "|".join(FORMER_NAMES)
        pattern = re.compile(rf"(?<=\.attentions\.0\.)({former})(?=\.(weight|bias)$)")
        return {pattern.sub(lambda found: FORMER_NAMES[found[0]], key): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".position_ids")}

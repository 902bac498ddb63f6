"""A UNet that was trained alone: a folder as diffusers saves it, or one file in diffusers' or in its authors' names.

    my-unet/config.json, my-unet/*.safetensors    its own configuration
    my-model/unet/…                               the same inside a whole checkpoint, of which nothing else is read
    my-unet.safetensors                           the base's configuration; a file of its authors' may hold more parts

In its authors' names it runs as they ran it, else as diffusers does: see `use_original_eps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcut_trt.bundle.manifest import ReadFile, SourceRecord
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.configs import read_json
from vcut_trt.checkpoints.folder import empty_part, part_tensors
from vcut_trt.checkpoints.keys import check_keys, counted, likely_cause, some
from vcut_trt.checkpoints.original_layout import (
    UNET,
    Origin,
    as_it_is,
    read_origins,
    shapes_of,
    unet_origins,
    use_original_eps,
)
from vcut_trt.checkpoints.parts import empty_unet
from vcut_trt.checkpoints.refusals import refuse_other_types
from vcut_trt.checkpoints.svd import Config, check_unet
from vcut_trt.checkpoints.tensor_files import fill, read_header, read_tensors
from vcut_trt.checkpoints.weights import WeightSet
from vcut_trt.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel


@dataclass(frozen=True, kw_only=True)
class UNetSource:
    """Where a UNet comes from, its keys and shapes compared with its configuration."""

    config: Config  # of diffusers' UNetSpatioTemporalConditionModel
    place: Path  # the folder that its files lie in
    files: tuple[Path, ...]
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]  # reads them, one at a time, with diffusers' names
    original: bool  # whether it has its authors' names

    def load(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""
        unet = fill(empty_unet(self.config), self.tensors(), dtype)
        if self.original:
            use_original_eps(unet)
        return unet

    @cached_property
    def record(self) -> SourceRecord:
        """Its files, with their hashes."""
        place = self.place.resolve()
        files = tuple(ReadFile.of(place, place / path.relative_to(self.place)) for path in sorted(self.files))
        return SourceRecord(place=str(place), files=files)


def open_unet(path: Path, base: Checkpoint, choose: Callable[[Path], WeightSet]) -> UNetSource:
    """Find the UNet in a folder or a file.

    Args:
        path: The folder, or the file.
        base: The checkpoint that it is to be a part of.
        choose: Says which weights of a folder are read.

    Raises:
        ConfigError: There is no such folder or file.
        CheckpointError: It holds no UNet that fits the base; the message names what differs.
    """
    if path.is_dir():
        return _in_folder(path / "unet" if (path / "unet").is_dir() else path, base, choose)
    if not path.is_file():
        raise ConfigError(
            f"there is no UNet {path}: --unet takes a folder that diffusers saved, or a .safetensors file"
        )
    return _in_file(path, base)


def _in_folder(folder: Path, base: Checkpoint, choose: Callable[[Path], WeightSet]) -> UNetSource:
    config_file = folder / "config.json"
    config = read_json(config_file)
    check_unet(folder, config, embedding_width=base.embedding_width)
    weights = choose(folder)
    tensors = part_tensors("unet", weights)
    shapes = {name: tensor.header.shape for name, tensor in tensors.items()}
    check_keys(f"the UNet in {folder}", shapes, empty_part("unet", config, config_file))
    return UNetSource(
        config=config,
        place=folder,
        files=(config_file, *weights.files),
        tensors=lambda: read_tensors(tensors),
        original=False,
    )


def _in_file(path: Path, base: Checkpoint) -> UNetSource:
    headers, _metadata = read_header(path)
    prefix = UNET if any(key.startswith(UNET) for key in headers) else ""  # beside it, the other parts of a whole file
    local = {key.removeprefix(prefix): key for key in headers if key.startswith(prefix)}
    original = any(name.startswith("input_blocks.") for name in local)
    if original:
        origins, unknown = unet_origins(local)
        if unknown:
            raise CheckpointError(
                f"{path} has {counted(unknown)} that Stable Video Diffusion's UNet has no place for: {some(unknown)}."
                f"{likely_cause(unknown)}"
            )
    else:
        origins = {name: Origin(key=key, change=as_it_is) for name, key in local.items()}
    refuse_other_types(path, headers, [origins])
    config = base.unet_config()
    check_keys(f"the UNet in {path}", shapes_of(headers, origins), empty_unet(config))
    return UNetSource(
        config=config,
        place=path.parent,
        files=(path,),
        tensors=lambda: read_origins(path, origins),
        original=original,
    )

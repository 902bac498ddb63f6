"""A checkpoint in one file, in its authors' layout: `svd.safetensors`, `svd_xt.safetensors`, `svd_xt_1_1.safetensors`.

It has no configuration. The architecture is read off the shapes; scheduler and feature extractor are the family's.
Nothing in it tells svd from svd-xt, which differ in frames: the user says which member it is like, or its name does.

It runs as its authors ran it: 72 of the UNet's group norms have ε = 1e-5, where diffusers has 1e-6 (docs/folding.md).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vcut_trt.bundle.manifest import ModelRecord, ReadFile, SourceRecord
from vcut_trt.checkpoints.from_shapes import image_encoder_config, unet_config, vae_config
from vcut_trt.checkpoints.keys import check_keys, counted, likely_cause, some
from vcut_trt.checkpoints.original_layout import read_layout, read_origins, shapes_of, use_original_eps
from vcut_trt.checkpoints.parts import empty_image_encoder, empty_unet, empty_vae, write_configs
from vcut_trt.checkpoints.refusals import refuse_other_kinds, refuse_other_types
from vcut_trt.checkpoints.svd import (
    FAMILY,
    FEATURE_EXTRACTOR,
    SCHEDULER,
    SVD_XT,
    Architecture,
    Config,
    check_architecture,
)
from vcut_trt.checkpoints.tensor_files import fill, read_header
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.choices import Like

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

logger = logging.getLogger(__name__)

READING = 1  # counts up when the same file comes to give another model


class SingleFileCheckpoint:
    """A file in the original layout, each of its parts read when it is asked for. See `checkpoints.base.Checkpoint`."""

    random_weights = False
    revision: str | None = None

    def __init__(self, path: Path, *, like: Like | None) -> None:
        self._path = path
        self.model_id = str(path)
        headers, _metadata = read_header(path)
        refuse_other_kinds(headers, path)
        layout = read_layout(headers)
        if layout.unknown:
            raise CheckpointError(
                f"{path} has {counted(layout.unknown)} that no part of Stable Video Diffusion has a place for: "
                f"{some(layout.unknown)}.{likely_cause(layout.unknown)}"
            )
        self._origins = {"unet": layout.unet, "vae": layout.vae, "image_encoder": layout.image_encoder}
        refuse_other_types(path, headers, self._origins.values())
        shapes = {part: shapes_of(headers, origins) for part, origins in self._origins.items()}
        self.like = like or member_by_name(path)
        self._architecture = _architecture(path, shapes, frames=int(FAMILY[self.like.value].unet["num_frames"]))
        has_quant_conv = "quant_conv.weight" in layout.vae
        self._given = {} if has_quant_conv else identity_quant_conv(self._architecture)
        for part, empty in self._empty().items():
            check_keys(f"the {part} of {path}", shapes[part], empty, self._given if part == "vae" else ())
        self._sources: tuple[SourceRecord, ...] = ()
        self.frames = int(self._architecture.unet["num_frames"])
        self.height, self.width = self._architecture.height, self._architecture.width
        self.embedding_width = int(self._architecture.image_encoder["projection_dim"])

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""
        unet = fill(empty_unet(self._architecture.unet), self._read("unet"), dtype)
        use_original_eps(unet)
        return unet

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The VAE, in `dtype`."""
        parameters = chain(self._given.items(), self._read("vae"))
        return fill(empty_vae(self._architecture.vae), parameters, dtype)

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """CLIP's vision tower with its projection, in `dtype`."""
        return fill(empty_image_encoder(self._architecture.image_encoder), self._read("image_encoder"), dtype)

    def unet_config(self) -> Config:
        """The UNet's configuration, as its shapes tell it."""
        return self._architecture.unet

    def save_configs(self, folder: Path) -> None:
        """Write `scheduler/` and `feature_extractor/`, those of the SVD family."""
        write_configs(self._architecture, folder)

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has."""
        return {part: sum(p.numel() for p in empty.parameters()) for part, empty in self._empty().items()}

    def sources(self) -> tuple[SourceRecord, ...]:
        """The file. It is hashed once."""
        if not self._sources:
            folder = self._path.parent.resolve()
            file = ReadFile.of(folder, folder / self._path.name)
            self._sources = (SourceRecord(place=str(folder), files=(file,)),)
        return self._sources

    def record(self) -> ModelRecord:
        """What a bundle says of it."""
        return ModelRecord(
            id=self.model_id, revision=None, random_weights=False, sources=self.sources(), like=self.like
        )

    def fingerprint(self) -> str:
        """A hash of the file and of how it is read; its frames are the video's, which is not a part of this."""
        ((source,),) = (record.files for record in self.sources())
        return hashlib.sha256(f"single file {READING} {source.sha256}".encode()).hexdigest()

    def _read(self, part: str) -> Iterator[tuple[str, torch.Tensor]]:
        return read_origins(self._path, self._origins[part])

    def _empty(self) -> dict[str, torch.nn.Module]:
        return {
            "unet": empty_unet(self._architecture.unet),
            "vae": empty_vae(self._architecture.vae),
            "image_encoder": empty_image_encoder(self._architecture.image_encoder),
        }


def member_by_name(path: Path) -> Like:
    """The member of the family that a file's name speaks of: `svd_xt_1_1.safetensors` of svd-xt-1.1.

    Raises:
        ConfigError: It speaks of none.
    """
    words = "-".join(re.findall(r"[a-z]+|\d+", path.stem.lower()))
    for member in sorted(FAMILY, key=len, reverse=True):  # svd-xt is a part of svd-xt-1.1
        if re.search(rf"(^|-){member.replace('.', '-')}(-|$)", words):
            frames = FAMILY[member].unet["num_frames"]
            logger.warning(
                "%s is taken for %s by its name: %s frames. --like (load_pretrained: like=) says otherwise.",
                path,
                member,
                frames,
            )
            return Like(member)
    choices = ", ".join(f"{member} ({built.unet['num_frames']} frames)" for member, built in FAMILY.items())
    raise ConfigError(
        f"nothing in {path}, nor its name, tells which model it is. Say which with --like (load_pretrained: like=): "
        f"{choices}"
    )


def identity_quant_conv(architecture: Architecture) -> dict[str, torch.Tensor]:
    """A `quant_conv` that changes nothing: mean and log variance of each latent channel pass through."""
    moments = 2 * int(architecture.vae["latent_channels"])
    return {"quant_conv.weight": torch.eye(moments)[:, :, None, None], "quant_conv.bias": torch.zeros(moments)}


def _architecture(path: Path, shapes: dict[str, dict[str, tuple[int, ...]]], *, frames: int) -> Architecture:
    try:
        architecture = Architecture(
            unet=unet_config(shapes["unet"], frames),
            vae=vae_config(shapes["vae"]),
            image_encoder=image_encoder_config(shapes["image_encoder"]),
            scheduler=SCHEDULER,
            feature_extractor=FEATURE_EXTRACTOR,
            height=SVD_XT.height,
            width=SVD_XT.width,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks one of its weights: {error.args[0]}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} is of another architecture: {error}") from error
    classes = {"unet": "UNetSpatioTemporalConditionModel", "vae": "AutoencoderKLTemporalDecoder"}
    check_architecture(
        path,
        {
            "unet": {**architecture.unet, "_class_name": classes["unet"]},
            "vae": {**architecture.vae, "_class_name": classes["vae"]},
            "image_encoder": dict(architecture.image_encoder),
            "scheduler": {**architecture.scheduler, "_class_name": "EulerDiscreteScheduler"},
        },
    )
    return architecture

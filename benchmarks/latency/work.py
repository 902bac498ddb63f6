"""The work that every contender does: one model, one size, one number of steps, one seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.latency.medium import MEDIUM
from benchmarks.subject import Size
from vcut_trt.bundle.manifest import Manifest
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.folder import MODEL_PARTS
from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.sources import ARCHITECTURES as KNOWN
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.checkpoints.svd import Architecture
from vcut_trt.checkpoints.tiny import TINY
from vcut_trt.engines.workspace import parse_device, torch_dtype
from vcut_trt.errors import ConfigError
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

OWN = {"medium": MEDIUM}  # known to this benchmark only
ARCHITECTURES: Mapping[str, Architecture] = {**KNOWN, **OWN}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One video, the same for every contender.

    Raises:
        ConfigError: There is nothing to repeat or no step.
    """

    model: str
    random_weights: bool
    video: VideoSpec
    precision: Precision
    device: str  # cpu, cuda or cuda:N
    steps: int
    repeats: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError(f"steps is {self.steps}; a video that is cut has at least 2")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; it must be at least 1")

    @property
    def place(self) -> torch.device:
        """The device."""
        return parse_device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch_dtype(self.precision.dtype)

    def checkpoint(self) -> Checkpoint:
        """The model's weights, made or loaded when they are asked for."""
        if self.model in OWN:
            return RandomCheckpoint(self.model, OWN[self.model])
        return open_checkpoint(self.model, revision=None, precision=self.precision, random_weights=self.random_weights)

    def architecture(self) -> Architecture:
        """What is counted: the model's architecture at this work's size.

        Raises:
            ConfigError: It is neither of the family nor a folder.
        """
        base = ARCHITECTURES.get(self.model) or _folder_architecture(Path(self.model))
        video = self.video
        return replace(base, unet={**base.unet, "num_frames": video.frames}, height=video.height, width=video.width)

    def check_bundle(self, manifest: Manifest) -> None:
        """Refuse a bundle that does other work.

        Raises:
            ConfigError: It differs; the message says in what.
        """
        came = (manifest.model.random_weights, manifest.video, manifest.precision)
        wanted = (self.checkpoint().random_weights, self.video, self.precision)
        if came != wanted:
            raise ConfigError(
                f"the bundle of {manifest.model.id} does other work: (random weights, video, precision) is {came}, "
                f"expected {wanted}. Choose --model, --frames, --height, --width and --precision as it was exported."
            )


def make_work(
    model: str, size: Size, *, random_weights: bool, precision: Precision | None, device: str, steps: int, repeats: int
) -> Work:
    """The work that a user asked for, with defaults: fp16 on a GPU and fp32 on the CPU, the model's own size.

    Raises:
        ConfigError: A size, a number or the device is not usable.
        CheckpointError: The checkpoint cannot be had.
    """
    place = parse_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    chosen = precision or (Precision.FP32 if place.type == "cpu" else Precision.FP16)
    unsized = Work(
        model=model,
        random_weights=random_weights or model in ("tiny", *OWN),  # the trained tiny is too small to be timed
        video=VideoSpec(videos=1, frames=1, height=64, width=64, decode_chunk=1),
        precision=chosen,
        device=str(place),
        steps=steps,
        repeats=repeats,
    )
    return replace(unsized, video=size.video(unsized.checkpoint()))


def as_json(work: Work) -> dict[str, Any]:
    """The work for programs."""
    return {**asdict(work), "precision": work.precision.value}


def _folder_architecture(folder: Path) -> Architecture:
    """The architecture in a folder in diffusers' layout, which `open_checkpoint` has checked."""
    if not folder.is_dir():
        raise ConfigError(f"--model is {folder}; use {', '.join(ARCHITECTURES)} or an existing folder")
    configs = {part: json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in MODEL_PARTS}
    public = {
        part: {name: value for name, value in config.items() if not name.startswith("_")}
        for part, config in configs.items()
    }
    return replace(TINY, unet=public["unet"], vae=public["vae"], image_encoder=public["image_encoder"])
